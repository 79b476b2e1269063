"""Entries of Caffe's first format, ``layers { layer { type: "conv" kernelsize: 5 } }``, as entries of the second."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jaffe.netdef.errors import SpecError, suggest
from jaffe.netdef.jaffe_pb2 import V0LayerParameter, V1LayerParameter

Entry = tuple[int, V1LayerParameter]

# Type of V0: type of V1, and the message that holds its settings there.
_TYPES = {
    "accuracy": ("ACCURACY", ""),
    "bnll": ("BNLL", ""),
    "concat": ("CONCAT", "concat_param"),
    "conv": ("CONVOLUTION", "convolution_param"),
    "data": ("DATA", "data_param"),
    "dropout": ("DROPOUT", "dropout_param"),
    "euclidean_loss": ("EUCLIDEAN_LOSS", ""),
    "flatten": ("FLATTEN", ""),
    "hdf5_data": ("HDF5_DATA", "hdf5_data_param"),
    "hdf5_output": ("HDF5_OUTPUT", "hdf5_output_param"),
    "im2col": ("IM2COL", ""),
    "images": ("IMAGE_DATA", "image_data_param"),
    "infogain_loss": ("INFOGAIN_LOSS", "infogain_loss_param"),
    "innerproduct": ("INNER_PRODUCT", "inner_product_param"),
    "lrn": ("LRN", "lrn_param"),
    "multinomial_logistic_loss": ("MULTINOMIAL_LOGISTIC_LOSS", ""),
    "pool": ("POOLING", "pooling_param"),
    "relu": ("RELU", ""),
    "sigmoid": ("SIGMOID", ""),
    "softmax": ("SOFTMAX", ""),
    "softmax_loss": ("SOFTMAX_LOSS", ""),
    "split": ("SPLIT", ""),
    "tanh": ("TANH", ""),
    "window_data": ("WINDOW_DATA", "window_data_param"),
}
_PADDING = "padding"

# Setting of V0: its name in the settings of V1, and the V0 types that have it.
_FIELDS = {
    "num_output": ("num_output", ("conv", "innerproduct")),
    "biasterm": ("bias_term", ("conv", "innerproduct")),
    "weight_filler": ("weight_filler", ("conv", "innerproduct")),
    "bias_filler": ("bias_filler", ("conv", "innerproduct")),
    "pad": ("pad", ("conv", "pool")),
    "kernelsize": ("kernel_size", ("conv", "pool")),
    "stride": ("stride", ("conv", "pool")),
    "group": ("group", ("conv",)),
    "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)),
    "alpha": ("alpha", ("lrn",)),
    "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", ("data", "hdf5_data", "images", "window_data", "infogain_loss")),
    "batchsize": ("batch_size", ("data", "hdf5_data", "images", "window_data")),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)),
    "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)),
    "concat_dim": ("concat_dim", ("concat",)),
    "det_fg_threshold": ("fg_threshold", ("window_data",)),
    "det_bg_threshold": ("bg_threshold", ("window_data",)),
    "det_fg_fraction": ("fg_fraction", ("window_data",)),
    "det_context_pad": ("context_pad", ("window_data",)),
    "det_crop_mode": ("crop_mode", ("window_data",)),
    "hdf5_output_param": ("", ("hdf5_output",)),  # the whole message
}
_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
_UNUSED = ("new_num", "new_channels")  # read by no layer


def from_v0(entries: Sequence[Entry], locate: Callable[[int], str]) -> list[Entry]:
    """V0 entries as V1 entries, each with its index in the file; V1 entries among them stay.

    Padding layers are folded away: the conv or pool that reads one takes its ``pad`` and its bottom.

    Raises:
        SpecError: an unknown type, a setting that the type does not have, or a padding layer that is read by
            another type than conv and pool.
    """
    result = []
    paddings: dict[str, V1LayerParameter | None] = {}  # by the blob that each has written last
    for index, entry in entries:

        def error(problem: str, index: int = index, entry: V1LayerParameter = entry) -> SpecError:
            return SpecError(problem, layer=entry.layer.name or entry.name, location=locate(index) or None)

        is_padding = entry.HasField("layer") and entry.layer.type == _PADDING
        if is_padding and (len(entry.bottom), len(entry.top)) != (1, 1):
            raise error(f"padding takes 1 bottom and 1 top; found {len(entry.bottom)} and {len(entry.top)}")
        found = [padding for padding in map(paddings.get, entry.bottom) if padding is not None]
        if found:
            if entry.layer.type not in ("conv", "pool") or len(entry.bottom) != 1:
                raise error(f"reads the padding layer {found[0].layer.name!r}: expected conv or pool, with 1 bottom; "
                            f"found {entry.layer.type or 'a V1 entry'!r}, with {len(entry.bottom)}")
            try:
                entry = _padded(entry, found[0])
            except ValueError:  # of protobuf
                raise error(f"pad {entry.layer.pad} and that of {found[0].layer.name!r}, {found[0].layer.pad}, are too "
                            "large") from None
        paddings.update(dict.fromkeys(entry.top, entry if is_padding else None))
        if not is_padding:
            result.append((index, _entry(entry, error) if entry.HasField("layer") else entry))
    return result


def _padded(entry: V1LayerParameter, padding: V1LayerParameter) -> V1LayerParameter:
    """A conv or pool that reads a padding layer, made to pad itself. Its own pad, which Caffe forgets, is added."""
    result = V1LayerParameter()
    result.CopyFrom(entry)
    result.layer.pad = entry.layer.pad + padding.layer.pad
    result.bottom[0] = padding.bottom[0]
    return result


def _entry(entry: V1LayerParameter, error: Callable[[str], SpecError]) -> V1LayerParameter:
    """A V0 entry, whose settings all stand in ``layer``, as a V1 entry."""
    old = entry.layer
    beside = [field.name for field, _ in entry.ListFields() if field.name not in ("layer", "bottom", "top")]
    if beside:
        raise error(f"an entry with 'layer' inside holds its settings there; found {', '.join(beside)} beside it")
    if old.type not in _TYPES:
        near = suggest(old.type, [*_TYPES, _PADDING]) or f"; expected one of {', '.join([*_TYPES, _PADDING])}"
        raise error(f"unknown layer type {old.type!r} of the V0 format{near}")
    kind, settings = _TYPES[old.type]
    new = V1LayerParameter(
        bottom=entry.bottom, top=entry.top, type=kind, blobs=old.blobs, blobs_lr=old.blobs_lr,
        weight_decay=old.weight_decay,
    )
    if old.HasField("name"):
        new.name = old.name
    for field, value in old.ListFields():
        if field.name in ("name", "type", "blobs", "blobs_lr", "weight_decay", *_UNUSED):
            continue
        try:
            _set(old, new, settings, field.name)
        except KeyError:
            types = " or ".join(_FIELDS[field.name][1])
            raise error(f"{old.type} does not read {field.name}; expected it on {types}") from None
        except ValueError:
            raise error(f"{field.name} is not negative; found {value}") from None
    return new


def _set(old: V0LayerParameter, new: V1LayerParameter, settings: str, name: str) -> None:
    """Copy one setting to its place in V1. Raises KeyError where the type does not have it."""
    value = getattr(old, name)
    if name == "scale" and old.type == "window_data":
        new.window_data_param.scale = value  # Caffe moves it to where the layer does not read it
        return
    if name in _TRANSFORM:
        setattr(new.transform_param, _TRANSFORM[name], value)
        return
    target, types = _FIELDS[name]
    if old.type not in types:
        raise KeyError(name)
    message = getattr(new, settings)
    if not target:
        message.CopyFrom(value)
        return
    field = message.DESCRIPTOR.fields_by_name[target]
    if field.is_repeated:
        getattr(message, target).append(value)
    elif field.message_type is not None:
        getattr(message, target).CopyFrom(value)
    else:
        setattr(message, target, value)
