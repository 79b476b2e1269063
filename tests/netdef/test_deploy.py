"""From train_val to deploy: what stays, what becomes an input, and what is told when that is not known."""

from __future__ import annotations

import pytest

from jaffe import zoo
from jaffe.netdef import JaffeError, NetParameter, SpecError, deploy, load, resolve
from jaffe.netdef.text import parse_text

DATA = """layer { name: "db" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 11 mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }
  data_param { batch_size: 64 } }
layer { name: "db" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { crop_size: 13 mirror: true mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 }
  data_param { batch_size: 64 } }
"""


def ip(name: str, bottom: str) -> str:
    return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
            'param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 } '
            'inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }\n')


def one(kind: str, bottoms: str, top: str, settings: str = "") -> str:
    reads = "".join(f' bottom: "{bottom}"' for bottom in bottoms.split())
    return f'layer {{ name: "{top}" type: "{kind}"{reads} top: "{top}" {settings} }}\n'


def nodes(net: NetParameter) -> list[str]:
    """The lines of the resolved net without its first."""
    return [line.strip() for line in str(resolve(net)).splitlines()[1:]]


def test_classifier():
    net = deploy('name: "n" force_backward: true\n' + DATA + ip("fc", "data")
                 + 'layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }\n'
                 + one("Accuracy", "fc label", "accuracy", "include { phase: TEST }")
                 + one("SoftmaxWithLoss", "fc label", "loss", "softmax_param { axis: -1 } loss_weight: 3"))
    assert net == parse_text("""name: "n"
        layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 13 dim: 13 } }
          transform_param { crop_size: 13 mean_value: 104 mean_value: 117 mean_value: 123 scale: 0.5 } }
        layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 7 } }
        layer { name: "drop" type: "Dropout" bottom: "fc" top: "fc" }
        layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" softmax_param { axis: -1 } }
        """, NetParameter)


@pytest.mark.parametrize(
    ("loss", "last"),
    [
        ("SoftmaxWithLoss", "prob = Softmax<prob>(fc)"),
        ("InfogainLoss", "prob = Softmax<prob>(fc)"),
        ("SigmoidCrossEntropyLoss", "prob = Sigmoid<prob>(fc)"),
        ("EuclideanLoss", "fc = InnerProduct<fc>(data)"),
        ("HingeLoss", "fc = InnerProduct<fc>(data)"),
        ("MultinomialLogisticLoss", "fc = InnerProduct<fc>(data)"),
        ("CostSensitiveLoss", "fc = InnerProduct<fc>(data)"),  # a user's own
    ],
)
def test_losses(loss, last):
    assert nodes(deploy(DATA + ip("fc", "data") + one(loss, "fc label", "loss")))[-2] == last


def test_prediction_that_the_loss_reads_second():
    net = deploy(DATA + ip("fc", "data") + one("EuclideanLoss", "label fc", "loss"))
    assert nodes(net) == ["data = Input<data>()", "fc = InnerProduct<fc>(data)", "-> fc"]


def test_softmax_that_is_there_already():
    text = DATA + ip("fc", "data") + one("Softmax", "fc", "scores") + one("SoftmaxWithLoss", "fc label", "loss")
    assert nodes(deploy(text))[-2:] == ["scores = Softmax<scores>(fc)", "-> scores"]


def test_second_top_of_the_loss():
    text = DATA + ip("fc", "data") + (
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" top: "p" }\n'
    ) + one("ArgMax", "p", "best")
    assert nodes(deploy(text))[-3:] == ["p = Softmax<prob>(fc)", "best = ArgMax<best>(p)", "-> best"]


AUXILIARY = (
    DATA + ip("trunk", "data") + ip("aux_fc", "trunk") + one("ReLU", "aux_fc", "aux_relu") + ip("aux", "aux_relu")
    + one("SoftmaxWithLoss", "aux label", "aux_loss", "loss_weight: 0.3") + one("Accuracy", "aux label", "aux_top1")
    + ip("main", "trunk") + one("SoftmaxWithLoss", "main label", "loss", "loss_weight: 1")
)


def test_auxiliary_heads():
    assert nodes(deploy(AUXILIARY)) == [
        "data = Input<data>()", "trunk = InnerProduct<trunk>(data)", "main = InnerProduct<main>(trunk)",
        "prob = Softmax<prob>(main)", "-> prob",
    ]


def test_outputs_by_name():
    assert nodes(deploy(AUXILIARY, outputs=["aux_relu"]))[-3:] == [
        "aux_fc = InnerProduct<aux_fc>(trunk)", "aux_relu = ReLU<aux_relu>(aux_fc)", "-> aux_relu"
    ]
    assert nodes(deploy(AUXILIARY, outputs=["prob"])) == nodes(deploy(AUXILIARY))
    assert nodes(deploy(AUXILIARY, outputs=["aux_prob"]))[-2:] == ["aux_prob = Softmax<aux_prob>(aux)", "-> aux_prob"]


def test_tasks_of_their_own_labels_all_stay():
    """A smaller weight alone does not make a head auxiliary: these two answer different questions."""
    text = (
        DATA + one("Slice", "label", "kind", "slice_param { slice_point: 1 }")
        .replace('top: "kind"', 'top: "kind" top: "box"')
        + ip("a", "data") + one("SoftmaxWithLoss", "a kind", "loss_a") + ip("b", "data")
        + one("EuclideanLoss", "b box", "loss_b", "loss_weight: 0.5")
    )
    assert nodes(deploy(text)) == [
        "data = Input<data>()", "a = InnerProduct<a>(data)", "prob = Softmax<prob>(a)", "b = InnerProduct<b>(data)",
        "-> b, prob",
    ]


def test_two_heads_of_one_weight():
    text = (DATA + ip("a", "data") + ip("b", "data") + one("SoftmaxWithLoss", "a label", "la")
            + one("SoftmaxWithLoss", "b label", "lb"))
    assert resolve(deploy(text)).outputs == ("a_prob", "b_prob")


def test_what_mixes_with_labels_goes_and_its_prediction_stays():
    """A loss made of layers: only the part before the label can be deployed."""
    text = (DATA + ip("fc", "data") + one("Eltwise", "fc label", "difference", "eltwise_param { coeff: 1 coeff: -1 }")
            + one("Reduction", "difference", "sum", "loss_weight: 1"))
    assert nodes(deploy(text)) == ["data = Input<data>()", "fc = InnerProduct<fc>(data)", "-> fc"]


def test_silenced_blobs_are_no_predictions():
    text = DATA + ip("fc", "data") + ip("spare", "data") + 'layer { name: "s" type: "Silence" bottom: "spare" }\n'
    assert resolve(deploy(text)).outputs == ("fc",)


def test_siamese_net_keeps_both_branches_and_names_of_shared_parameters():
    def branch(name: str, bottom: str) -> str:
        return (f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" '
                'param { name: "w" lr_mult: 1 } param { lr_mult: 2 } inner_product_param { num_output: 2 } }\n')

    text = (DATA + one("Slice", "data", "pair", "slice_param { slice_point: 1 }").replace(
        'top: "pair"', 'top: "left" top: "right"') + branch("feat", "left") + branch("feat_p", "right")
        + one("ContrastiveLoss", "feat feat_p label", "loss"))
    net = deploy(text)
    assert resolve(net).outputs == ("feat", "feat_p")
    assert [[spec.name for spec in layer.param] for layer in net.layer] == [[], [], ["w"], ["w"]]
    assert not net.layer[-1].param[0].HasField("lr_mult")


@pytest.mark.parametrize(
    "settings",
    ["shape { dim: 64 dim: 3 dim: 11 dim: 13 } shape { dim: 64 }",
     "num: 64 channels: 3 height: 11 width: 13 num: 64 channels: 1 height: 1 width: 1"],
)
def test_dummy_data_is_data_where_there_is_no_other(settings):
    """As in the nets of benchmarks: what the loss alone reads is the label."""
    dummy = f'layer {{ name: "d" type: "DummyData" top: "data" top: "label" dummy_data_param {{ {settings} }} }}\n'
    text = dummy + ip("fc", "data") + one("SoftmaxWithLoss", "fc label", "loss")
    net = deploy(text, batch=2)
    assert nodes(net) == ["data = Input<data>()", "fc = InnerProduct<fc>(data)", "prob = Softmax<prob>(fc)", "-> prob"]
    assert list(net.layer[0].input_param.shape[0].dim) == [2, 3, 11, 13]
    noise = 'layer { name: "n" type: "DummyData" top: "noise" dummy_data_param { shape { dim: 5 dim: 7 } } }\n'
    text = DATA + noise + ip("a", "data") + ip("b", "noise") + one("Eltwise", "a b", "sum")
    assert "noise = DummyData<n>()" in nodes(deploy(text))


def test_data_and_losses_of_phase_train_only():
    text = (DATA.split("layer", 2)[1].join(["layer", ""]) + ip("fc", "data")
            + one("SoftmaxWithLoss", "fc label", "loss", "include { phase: TRAIN }"))
    net = deploy(text)
    assert nodes(net)[-2:] == ["prob = Softmax<prob>(fc)", "-> prob"]
    assert list(net.layer[0].input_param.shape[0].dim) == [1, 3, 11, 11]


@pytest.mark.parametrize(
    ("layer", "shape", "transform"),
    [
        ('type: "MemoryData" memory_data_param { batch_size: 3 channels: 5 height: 7 width: 11 }', [2, 5, 7, 11], ""),
        ('type: "Data" transform_param { crop_size: 7 scale: 2 }', [2, 3, 7, 7], "crop_size: 7 scale: 2"),
        ('type: "Data" transform_param { crop_size: 7 force_gray: true }', [2, 1, 7, 7],
         "crop_size: 7 force_gray: true"),
        ('type: "Data" transform_param { resize: 7 resize: 11 }', [2, 3, 7, 11], "resize: 7 resize: 11"),
        ('type: "ImageData" image_data_param { new_height: 7 new_width: 11 is_color: false }', [2, 1, 7, 11],
         "resize: 7 resize: 11"),
        ('type: "ImageData" image_data_param { new_height: 7 new_width: 11 } transform_param { crop_size: 5 }',
         [2, 3, 5, 5], "crop_size: 5 resize: 7 resize: 11"),
    ],
)
def test_shapes_of_data_layers(layer, shape, transform):
    net = deploy(f'layer {{ name: "d" top: "data" top: "label" {layer} }}' + ip("fc", "data"), batch=2)
    assert list(net.layer[0].input_param.shape[0].dim) == shape
    assert net.layer[0].transform_param == parse_text(f"transform_param {{ {transform} }}", type(net.layer[0])
                                                      ).transform_param


def test_shapes_that_are_given():
    text = 'layer { name: "d" type: "HDF5Data" top: "x" top: "label" }\n' + ip("fc", "x")
    net = deploy(text, {"x": (3, 17)})
    assert list(net.layer[0].input_param.shape[0].dim) == [3, 17]
    with pytest.raises(SpecError) as caught:
        deploy(text)
    assert str(caught.value) == ("layer 'd' (<text>:1): the shape of 'x' is not in the net, only in the data: expected "
                                 "inputs={'x': (1, ...)} (--shape x=1,...); found none")
    with pytest.raises(JaffeError, match=r"^the deploy net has no input 'y'; it reads x$"):
        deploy(text, {"x": (3, 17), "y": (1,)})


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (DATA + one("ReLU", "data", "r"), {}, "<text>: net '' has no prediction: no layer with weights leads from data "
         "to a loss or an output; name the blobs to keep (outputs=[...], --output)"),
        (AUXILIARY, {"outputs": ["mainn"]}, "no blob 'mainn' can be had without labels; did you mean 'main'?"),
        (AUXILIARY, {"outputs": ["loss"]}, "no blob 'loss' can be had without labels"),
        (AUXILIARY, {"outputs": "main"}, "outputs is a list of names; received 'main'"),
        (AUXILIARY, {"stages": "abc"}, "stages is a list of names; received 'abc'"),
        (AUXILIARY, {"batch": 0}, "batch: sizes are positive whole numbers; received [0]"),
        (AUXILIARY, {"batch": 2**70}, f"batch: sizes are at most 2147483647; received [{2**70}]"),
        (AUXILIARY, {"inputs": {"data": 3}}, "inputs['data']: sizes are positive whole numbers; received 3"),
        (AUXILIARY, {"inputs": {"data": (1.5, 3)}},
         "inputs['data']: sizes are positive whole numbers; received (1.5, 3)"),
        (AUXILIARY, {"inputs": {"data": "12"}}, "inputs['data']: sizes are positive whole numbers; received '12'"),
        (AUXILIARY, {"inputs": {"data": (1, -1, 28, 28)}},
         "inputs['data']: sizes are positive whole numbers; received (1, -1, 28, 28)"),
        (AUXILIARY, {"inputs": {"data": (10**22, 28)}},
         f"inputs['data']: sizes are at most 2147483647; received ({10**22}, 28)"),
        (DATA + one("ReLU", "data", "r", "include { } exclude { }"), {},
         "layer 'r' (<text>:7): has both include and exclude rules; use one kind"),
    ],
)
def test_messages(text, arguments, message):
    with pytest.raises(JaffeError) as caught:
        deploy(text, **arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize("name", zoo.RECIPES)
def test_zoo(name):
    """Nothing is left of data layers, losses and multipliers; and a deploy net deploys to itself."""
    source = load(zoo.recipe(name).net)
    net = deploy(source)
    assert not [layer.type for layer in net.layer if layer.type.endswith(("Data", "Loss", "Accuracy"))]
    assert not any(layer.include for layer in net.layer)
    stated = {field.name for layer in net.layer for param in layer.param for field, _ in param.ListFields()}
    assert stated <= {"name"}  # of a weight that layers share
    assert "filler" not in str(net)
    weighted = {layer.name for layer in source.net.layer  # but for classifiers that only training has
                if layer.type in ("Convolution", "InnerProduct", "Scale") and not layer.include}
    assert weighted <= {layer.name for layer in net.layer}
    assert deploy(net) == net
    assert "filler" in str(deploy(source, fillers=True))


def test_old_nets():
    net = deploy('layers { name: "d" type: DATA top: "data" top: "label" data_param { crop_size: 5 scale: 0.5 } }\n'
                 'layers { name: "fc" type: INNER_PRODUCT bottom: "data" top: "fc" blobs_lr: 1 }\n'
                 'layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc" bottom: "label" }')
    assert [layer.type for layer in net.layer] == ["Input", "InnerProduct", "Softmax"]
    assert (net.layer[0].transform_param.scale, net.layer[0].transform_param.crop_size) == (0.5, 5)
