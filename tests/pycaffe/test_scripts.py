"""Scripts as they were written for pycaffe: only what they import is changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import jaffe.pycaffe as caffe


def run(script: str, **names: Any) -> dict[str, Any]:
    """Run a script whose imports of caffe are those of jaffe.pycaffe; what it leaves behind, by name."""
    script = script.replace("import caffe\n", "import jaffe.pycaffe as caffe\n")
    script = script.replace("from caffe", "from jaffe.pycaffe")
    found = {"np": np, **names}
    exec(compile(script, "script", "exec"), found)
    return found


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caffe.set_random_seed(0)
    return tmp_path


DEPLOY = """
name: "TinyCaffeNet"
layer { name: "data" type: "Input" top: "data" input_param { shape: { dim: 10 dim: 3 dim: 23 dim: 23 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 6 kernel_size: 5 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "fc6" type: "InnerProduct" bottom: "pool1" top: "fc6"
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } bias_filler { value: 0.3 } } }
layer { name: "relu6" type: "ReLU" bottom: "fc6" top: "fc6" }
layer { name: "fc7" type: "InnerProduct" bottom: "fc6" top: "fc7"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc7" top: "prob" }
"""

CLASSIFICATION = '''
import caffe

caffe.set_mode_cpu()
net = caffe.Net(model_def,      # defines the structure of the model
                model_weights,  # contains the trained weights
                caffe.TEST)     # use test mode (e.g., don't perform dropout)

mu = np.load('mean.npy')
mu = mu.mean(1).mean(1)
transformer = caffe.io.Transformer({'data': net.blobs['data'].data.shape})
transformer.set_transpose('data', (2, 0, 1))
transformer.set_mean('data', mu)
transformer.set_raw_scale('data', 255)
transformer.set_channel_swap('data', (2, 1, 0))

net.blobs['data'].reshape(5, 3, 23, 23)
image = caffe.io.load_image('cat.png')
transformed_image = transformer.preprocess('data', image)
net.blobs['data'].data[...] = transformed_image
output = net.forward()
output_prob = output['prob'][0]  # the output probability vector for the first image in the batch
top_inds = output_prob.argsort()[::-1][:5]

shapes = []
for layer_name, blob in net.blobs.items():
    shapes.append(layer_name + '\\t' + str(blob.data.shape))
for layer_name, param in net.params.items():
    shapes.append(layer_name + '\\t' + str(param[0].data.shape) + str(param[1].data.shape))

filters = net.params['conv1'][0].data.transpose(0, 2, 3, 1)
filters = (filters - filters.min()) / (filters.max() - filters.min())
feat = net.blobs['conv1'].data[0, :36]
padded = np.pad(feat, ((0, 0), (0, 1), (0, 1)), mode='constant', constant_values=1)
feat = net.blobs['fc6'].data[0]
positive = feat[feat > 0]

images = net.forward_all(data=np.asarray([transformer.preprocess('data', image)] * 12))
net.forward(data=np.asarray([transformed_image] * 5))
shown = transformer.deprocess('data', net.blobs['data'].data[0])
'''


@pytest.mark.filterwarnings("ignore:Net.file, weights, phase")
def test_classification(folder):
    (folder / "deploy.prototxt").write_text(DEPLOY)
    caffe.Net("deploy.prototxt", caffe.TEST).save("net.caffemodel")
    np.save("mean.npy", np.full((3, 30, 30), [[[104]], [[117]], [[123]]]))
    pixels = np.random.default_rng(0).integers(0, 256, (23, 23, 3)).astype(np.uint8)
    Image.fromarray(pixels).save("cat.png")
    left = run(CLASSIFICATION, model_def="deploy.prototxt", model_weights="net.caffemodel")
    assert left["shapes"] == [
        "data\t(5, 3, 23, 23)", "conv1\t(5, 6, 10, 10)", "pool1\t(5, 6, 5, 5)", "fc6\t(5, 8)", "fc7\t(5, 4)",
        "prob\t(5, 4)", "conv1\t(6, 3, 5, 5)(6,)", "fc6\t(8, 150)(8,)", "fc7\t(4, 8)(4,)"]
    bgr = pixels[..., ::-1].transpose(2, 0, 1) - np.array([104, 117, 123]).reshape(3, 1, 1)
    np.testing.assert_allclose(left["transformed_image"], bgr, atol=1e-4)
    assert left["output_prob"].sum() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(left["images"]["prob"], np.tile(left["output_prob"], (12, 1)), rtol=1e-5)
    assert left["padded"].shape == (6, 11, 11)
    assert set(left["top_inds"]) == {0, 1, 2, 3}
    assert left["filters"].shape == (6, 5, 5, 3)
    assert (left["positive"] > 0).all()
    np.testing.assert_allclose(left["shown"], pixels / 255, atol=1e-5)


LENET = '''
import lmdb
import caffe
from caffe import layers as L, params as P

for name, part in (('train', slice(0, 1500)), ('test', slice(1500, 1700))):
    with lmdb.open('mnist_%s_lmdb' % name, map_size=2**24) as env, env.begin(write=True) as txn:
        for i, (pixels, label) in enumerate(zip(digits.images[part], digits.target[part])):
            datum = caffe.io.array_to_datum((16 * pixels[None]).clip(0, 255).astype(np.uint8), int(label))
            txn.put('{:08}'.format(i).encode('ascii'), datum.SerializeToString())

def lenet(lmdb, batch_size):
    # our version of LeNet: a series of linear and simple nonlinear transformations
    n = caffe.NetSpec()
    n.data, n.label = L.Data(batch_size=batch_size, backend=P.Data.LMDB, source=lmdb,
                             transform_param=dict(scale=1./255), ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=3, num_output=8, weight_filler=dict(type='xavier'))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.fc1 = L.InnerProduct(n.pool1, num_output=32, weight_filler=dict(type='xavier'))
    n.relu1 = L.ReLU(n.fc1, in_place=True)
    n.score = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type='xavier'))
    n.loss = L.SoftmaxWithLoss(n.score, n.label)
    return n.to_proto()

with open('lenet_auto_train.prototxt', 'w') as f:
    f.write(str(lenet('mnist_train_lmdb', 64)))
with open('lenet_auto_test.prototxt', 'w') as f:
    f.write(str(lenet('mnist_test_lmdb', 100)))

from caffe.proto import caffe_pb2
s = caffe_pb2.SolverParameter()
s.random_seed = 0
s.train_net = 'lenet_auto_train.prototxt'
s.test_net.append('lenet_auto_test.prototxt')
s.test_interval = 500  # Test after every 500 training iterations.
s.test_iter.append(2)
s.max_iter = 10000
s.type = "SGD"
s.base_lr = 0.05
s.momentum = 0.9
s.weight_decay = 5e-4
s.lr_policy = 'inv'
s.gamma = 0.0001
s.power = 0.75
s.solver_mode = caffe_pb2.SolverParameter.CPU
with open('lenet_auto_solver.prototxt', 'w') as f:
    f.write(str(s))

caffe.set_mode_cpu()
solver = None  # ignore this workaround for lmdb data (can't instantiate two solvers on the same data)
solver = caffe.get_solver('lenet_auto_solver.prototxt')

# each output is (batch size, feature dim, spatial dim)
blobs = [(k, v.data.shape) for k, v in solver.net.blobs.items()]
# just print the weight sizes (we'll omit the biases)
weights = [(k, v[0].data.shape) for k, v in solver.net.params.items()]

solver.net.forward()  # train net
first = solver.test_nets[0].forward()['loss'].copy()  # test net (there can be more than one)
shown = solver.net.blobs['data'].data[:8, 0].transpose(1, 0, 2).reshape(8, 8*8)
train_labels = solver.net.blobs['label'].data[:8]
test_labels = solver.test_nets[0].blobs['label'].data[:8].copy()

solver.step(1)
gradient = solver.net.params['conv1'][0].diff[:, 0].reshape(2, 4, 3, 3).transpose(0, 2, 1, 3).reshape(2*3, 4*3)

niter = 100
test_interval = 25
# losses will also be stored in the log
train_loss = np.zeros(niter)
test_acc = np.zeros(int(np.ceil(niter / test_interval)))
output = np.zeros((niter, 8, 10))

# the main solver loop
for it in range(niter):
    solver.step(1)  # SGD by Caffe

    # store the train loss
    train_loss[it] = solver.net.blobs['loss'].data

    # store the output on the first test batch
    # (start the forward pass at conv1 to avoid loading new data)
    solver.test_nets[0].forward(start='conv1')
    output[it] = solver.test_nets[0].blobs['score'].data[:8]

    # run a full test every so often
    if it % test_interval == 0:
        correct = 0
        for test_it in range(2):
            solver.test_nets[0].forward()
            correct += sum(solver.test_nets[0].blobs['score'].data.argmax(1)
                           == solver.test_nets[0].blobs['label'].data)
        test_acc[it // test_interval] = correct / 200.

solver.net.save('lenet.caffemodel')
'''


def test_learning_lenet(folder):
    left = run(LENET, digits=load_digits())
    assert left["blobs"] == [("data", (64, 1, 8, 8)), ("label", (64,)), ("conv1", (64, 8, 6, 6)),
                             ("pool1", (64, 8, 3, 3)), ("fc1", (64, 32)), ("score", (64, 10)), ("loss", ())]
    assert left["weights"] == [("conv1", (8, 1, 3, 3)), ("fc1", (32, 72)), ("score", (10, 32))]
    assert left["first"] == pytest.approx(np.log(10), abs=0.7)
    digits = load_digits()
    np.testing.assert_array_equal(left["test_labels"], digits.target[1500:1508])
    assert left["shown"].max() == pytest.approx(1)
    assert left["gradient"].any()
    assert left["train_loss"][:5].mean() > 1.5
    assert left["train_loss"][-10:].mean() < 0.3
    assert left["test_acc"][0] < 0.6
    assert left["test_acc"][-1] > 0.75
    assert not np.array_equal(left["output"][0], left["output"][-1])
    saved = caffe.Net("lenet_auto_test.prototxt", caffe.TEST, weights="lenet.caffemodel")
    saved.forward()
    assert np.mean(saved.blobs["score"].data.argmax(1) == saved.blobs["label"].data) > 0.75


SURGERY = '''
import caffe

# Load the net, list its data and params, and filter an example image.
net = caffe.Net('conv.prototxt', caffe.TEST)
im_input = im[np.newaxis, np.newaxis, :, :]
net.blobs['data'].reshape(*im_input.shape)
net.blobs['data'].data[...] = im_input
net.forward()
before = net.blobs['conv'].data[0].copy()

# pick first filter output, set first filter bias to 1, and filter again
conv0 = net.blobs['conv'].data[0, 0]
mean_before = conv0.mean()
net.params['conv'][1].data[0] = 1.
net.forward()
mean_after = conv0.mean()

ksize = net.params['conv'][0].data.shape[2:]
# make Gaussian blur
sigma = 1.
y, x = np.mgrid[-ksize[0]//2 + 1:ksize[0]//2 + 1, -ksize[1]//2 + 1:ksize[1]//2 + 1]
g = np.exp(-((x**2 + y**2)/(2.0*sigma**2)))
gaussian = (g / g.sum()).astype(np.float32)
net.params['conv'][0].data[0] = gaussian
# make Sobel operator for edge detection
net.params['conv'][0].data[1:] = 0.
sobel = np.array((-1, -2, -1, 0, 0, 0, 1, 2, 1), dtype=np.float32).reshape((3, 3))
net.params['conv'][0].data[1, 0, 1:-1, 1:-1] = sobel  # horizontal
net.params['conv'][0].data[2, 0, 1:-1, 1:-1] = sobel.T  # vertical
net.forward()
filtered = net.blobs['conv'].data[0]

# Load the original network and extract the fully connected layers' parameters.
net = caffe.Net('deploy.prototxt', 'net.caffemodel', caffe.TEST)
params = ['fc6', 'fc7']
# fc_params = {name: (weights, biases)}
fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}

# Load the fully convolutional network to transplant the parameters.
net_full_conv = caffe.Net('full_conv.prototxt', 'net.caffemodel', caffe.TEST)
params_full_conv = ['fc6-conv', 'fc7-conv']
conv_params = {pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data) for pr in params_full_conv}
for pr, pr_conv in zip(params, params_full_conv):
    conv_params[pr_conv][0].flat = fc_params[pr][0].flat  # flat unrolls the arrays
    conv_params[pr_conv][1][...] = fc_params[pr][1]
net_full_conv.save('full_conv.caffemodel')

# make classification map by forward and print prediction indices at each location
large = picture(27)
out = net_full_conv.forward_all(data=np.asarray([large]))
classes = out['prob'][0].argmax(axis=0)
net.blobs['data'].reshape(1, 3, 23, 23)
one = net.forward(data=large[None, :, 4:, 4:])['prob'][0]
'''


@pytest.mark.filterwarnings("ignore:Net.file, weights, phase")
def test_net_surgery(folder):
    (folder / "conv.prototxt").write_text("""
        layer { name: "data" type: "Input" top: "data" input_param { shape: { dim: 1 dim: 1 dim: 100 dim: 100 } } }
        layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
                convolution_param { num_output: 3 kernel_size: 5 stride: 1
                weight_filler { type: "gaussian" std: 0.01 } bias_filler { type: "constant" value: 0 } } }""")
    (folder / "deploy.prototxt").write_text(DEPLOY)
    conv = "type: \"Convolution\" {} convolution_param {{ num_output: {} kernel_size: {} }} }}"
    start, end = DEPLOY.index('layer { name: "fc6"'), DEPLOY.index('layer { name: "prob"')
    (folder / "full_conv.prototxt").write_text(
        DEPLOY[:start].replace("dim: 10 dim: 3 dim: 23 dim: 23", "dim: 1 dim: 3 dim: 27 dim: 27")
        + 'layer { name: "fc6-conv" ' + conv.format('bottom: "pool1" top: "fc6-conv"', 8, 5)
        + 'layer { name: "relu6" type: "ReLU" bottom: "fc6-conv" top: "fc6-conv" }'
        + 'layer { name: "fc7-conv" ' + conv.format('bottom: "fc6-conv" top: "fc7-conv"', 4, 1)
        + DEPLOY[end:].replace('"fc7"', '"fc7-conv"'))
    caffe.Net("deploy.prototxt", caffe.TEST).save("net.caffemodel")
    random = np.random.default_rng(0)
    im = random.random((36, 48))
    left = run(SURGERY, im=im, picture=lambda n: random.normal(size=(3, n, n)).astype(np.float32))
    assert left["before"].shape == (3, 32, 44)
    assert left["mean_after"] == pytest.approx(left["mean_before"] + 1, abs=1e-5)
    edges = sum(im[1 + i : 33 + i, 1 + j : 45 + j] * left["sobel"][i, j] for i in range(3) for j in range(3))
    np.testing.assert_allclose(left["filtered"][1], edges, atol=1e-5)
    blurred = sum(im[i : 32 + i, j : 44 + j] * left["gaussian"][i, j] for i in range(5) for j in range(5)) + 1
    np.testing.assert_allclose(left["filtered"][0], blurred, rtol=1e-5)
    assert left["classes"].shape == (2, 2)
    np.testing.assert_allclose(left["out"]["prob"][0, :, 1, 1], left["one"], rtol=1e-4)  # where the small net looked
    again = caffe.Net("full_conv.prototxt", caffe.TEST, weights="full_conv.caffemodel")
    np.testing.assert_array_equal(again.params["fc6-conv"][0].data.ravel(), left["fc_params"]["fc6"][0].ravel())


DREAM = '''
import caffe
net = caffe.Classifier(str(net_fn), None, mean=np.float32([104.0, 116.0, 122.0]), channel_swap=(2, 1, 0))

def preprocess(net, img):
    return np.float32(np.rollaxis(img, 2)[::-1]) - net.transformer.mean['data']

def objective_L2(dst):
    dst.diff[:] = dst.data

def make_step(net, step_size=1.5, end='pool1', objective=objective_L2):
    src = net.blobs['data']  # input image is stored in Net's 'data' blob
    dst = net.blobs[end]
    net.forward(end=end)
    objective(dst)  # specify the optimization objective
    net.backward(start=end)
    g = src.diff[0]
    # apply normalized ascent step to the input image
    src.data[:] += step_size/np.abs(g).mean() * g

src = net.blobs['data']
src.reshape(1, 3, 30, 28)
src.data[0] = preprocess(net, img)
norms = []
for i in range(5):
    make_step(net)
    norms.append(float((net.blobs['pool1'].data**2).sum()))

# saliency: which pixels matter for the class
net.blobs['data'].reshape(1, 3, 23, 23)
label = net.forward(data=src.data[:, :, :23, :23] * 0 + 1)['prob'].argmax()
caffeLabel = np.zeros((1, 4))
caffeLabel[0, label] = 1
bw = net.backward(**{net.outputs[0]: caffeLabel})
saliency = np.abs(bw['data'][0]).max(0)
'''


def test_gradients_of_the_input(folder):
    (folder / "deploy.prototxt").write_text(DEPLOY + "force_backward: true")
    left = run(DREAM, net_fn=folder / "deploy.prototxt", img=np.random.default_rng(0).integers(0, 256, (30, 28, 3)))
    assert all(np.diff(left["norms"]) > 0)
    assert left["saliency"].shape == (23, 23)
    assert left["saliency"].any()


FINE_TUNING = '''
import caffe
import os
solver = caffe.SGDSolver('solver.prototxt')
solver.net.copy_from('net.caffemodel')
copied = solver.net.params['fc6'][0].data.copy()
niter = 3
loss = np.zeros(niter)
for it in range(niter):
    solver.step(1)
    loss[it] = solver.net.blobs['loss'].data.copy()
frozen = solver.net.params['fc6'][0].data.copy()
learned = solver.net.params['fc7_new'][0].data.copy()
filename = os.path.join(os.getcwd(), 'weights.pretrained.caffemodel')
solver.net.save(filename)
test_net = caffe.Net('train.prototxt', filename, caffe.TEST)
'''


PRETRAINED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
TRAIN_NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 2 dim: 6 } shape { dim: 2 } data_filler { type: "gaussian" }
                           data_filler { type: "constant" value: 2 } } }
layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6" param { lr_mult: 0 } param { lr_mult: 0 }
        inner_product_param { num_output: 5 } }
layer { name: "fc7_new" type: "InnerProduct" bottom: "fc6" top: "fc7_new"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc7_new" bottom: "label" top: "loss" }
"""


@pytest.mark.filterwarnings("ignore:Net.file, weights, phase")
def test_fine_tuning(folder):
    """On DummyData, as in pycaffe's own tests: the solver reads no files; one layer is frozen."""
    caffe.Net(PRETRAINED, caffe.TEST).save("net.caffemodel")
    (folder / "train.prototxt").write_text(TRAIN_NET)
    (folder / "solver.prototxt").write_text('train_net: "train.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 9')
    left = run(FINE_TUNING)
    weights = caffe.Net(PRETRAINED, caffe.TEST, weights="net.caffemodel").params
    np.testing.assert_array_equal(left["copied"], weights["fc6"][0].data)
    np.testing.assert_array_equal(left["frozen"], left["copied"])
    assert left["loss"][2] < left["loss"][0]
    np.testing.assert_array_equal(left["test_net"].params["fc7_new"][0].data, left["learned"])
