"""The schema: the generated module is that of the .proto file, and Caffe's numbers are kept."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool

from jaffe.netdef import jaffe_pb2
from jaffe.netdef.schema import SETTINGS_FIELDS, settings_fields

PROTO = Path(jaffe_pb2.__file__).with_name("jaffe.proto")


def test_generated_module_is_up_to_date(tmp_path: Path):
    protoc = pytest.importorskip("grpc_tools.protoc")
    out = tmp_path / "descriptor.bin"
    root = PROTO.parents[2]
    assert protoc.main(["protoc", f"-I{root}", f"--descriptor_set_out={out}", str(PROTO)]) == 0
    (described,) = FileDescriptorSet.FromString(out.read_bytes()).file
    for message in described.message_type:
        for field in message.field:
            field.ClearField("json_name")  # the generated module leaves it out
    pool = DescriptorPool()  # writes defaults as the module does: 0.99000001 for 0.99
    pool.AddSerializedFile(described.SerializeToString())
    from_file, from_module = FileDescriptorProto(), FileDescriptorProto()
    pool.FindFileByName(jaffe_pb2.DESCRIPTOR.name).CopyToProto(from_file)
    jaffe_pb2.DESCRIPTOR.CopyToProto(from_module)
    assert from_module == from_file, "run `make schema`"


def reference_fields(text: str) -> dict[str, dict[str, tuple[int, str, str]]]:
    """Messages of appendix A of the reference: field name -> (number, type, default)."""
    appendix = text[text.index("## Appendix A") : text.index("## Appendix B")]
    messages = {}
    for name, body in re.findall(r"^- \*\*(\w+)\*\* — (.*)$", appendix, re.MULTILINE):
        fields = re.findall(r"(\d+) (\w+): (?:rep |REQ )?(\w+)(?: packed)?(?: = ([^;]+?))?(?=;|\.?$|\. Enum)", body)
        messages[name] = {field: (int(number), kind, default) for number, field, kind, default in fields}
    return messages


def test_every_field_of_caffe(shared: Path):
    """All messages and fields of Caffe 1.0, with their numbers and defaults."""
    messages = reference_fields((shared / "caffe-semantics.md").read_text())
    assert sum(map(len, messages.values())) >= 420
    for name, fields in messages.items():
        descriptor = getattr(jaffe_pb2, name).DESCRIPTOR
        first_own = {"LayerParameter": 200, "BlobProto": 10}.get(name, 1000)  # of forks and of jaffe
        own = {field.name for field in descriptor.fields if field.number >= first_own}
        own -= set(fields)  # V1LayerParameter has numbers above 1000 itself
        assert {field.name for field in descriptor.fields} - own == set(fields), name
        for field, (number, kind, default) in fields.items():
            found = descriptor.fields_by_name[field]
            assert found.number == number, f"{name}.{field}"
            type_name = found.message_type or found.enum_type
            if type_name:
                assert type_name.name == kind, f"{name}.{field}"
            if default and not found.is_repeated and not type_name and found.type != found.TYPE_STRING:
                expected = {"true": 1.0, "false": 0.0}.get(default) if default in ("true", "false") else float(default)
                assert float(found.default_value) == pytest.approx(expected), f"{name}.{field}"


@pytest.mark.parametrize(
    ("layer", "fields"),
    [
        ("Convolution", ("convolution_param",)),
        ("LRN", ("lrn_param",)),
        ("Deconvolution", ("convolution_param",)),
        ("SoftmaxWithLoss", ("loss_param", "softmax_param")),
        ("ReLU", ("relu_param",)),
        ("Split", ()),
        ("Nonsense", ()),
    ],
)
def test_settings_of_a_layer_type(layer: str, fields: tuple[str, ...]):
    assert settings_fields(layer) == fields
    assert set(fields) <= SETTINGS_FIELDS
