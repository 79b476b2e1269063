"""Memory of a training step with and without rematerialisation, as XLA plans it: nothing is run.

    python -m benchmarks.memory [NET ...]
"""

from __future__ import annotations

import argparse

import jax

from benchmarks.nets import NETS
from jaffe import zoo
from jaffe.compile import CompiledNet, compile_net


def built(name: str, remat: str) -> CompiledNet:
    """The net that ``make bench`` trains."""
    net = NETS[name]
    data, _ = net.data(net.batch)
    return compile_net(getattr(zoo, name)(batch=net.batch), phase="TRAIN", inputs={"data": data.shape}, remat=remat)


def planned(net: CompiledNet) -> float:
    """MiB that loss and gradients need beside weights, gradients and inputs."""
    variables = jax.eval_shape(net.init, jax.random.key(0))
    step = jax.jit(jax.value_and_grad(
        lambda params, state, inputs: net.loss({"params": params, "state": state}, inputs, jax.random.key(0)),
        has_aux=True))
    compiled = step.lower(variables["params"], variables["state"], net.inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def repeated(net: CompiledNet) -> float:
    """Operations that the backward pass does once more, in those of the step."""
    nodes = net.program(frozenset(net.loss_tops)).nodes
    again = [leaf.name for node in nodes if node.type == "Recomputed" for leaf in node.leaves]
    cost = net.cost()
    return sum(cost[name].flops for name in again) / (cost.flops + cost.backward_flops)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=list(NETS), metavar="NET", help=", ".join(NETS))
    options = parser.parse_args()
    print("| net | batch | blobs, MiB | none, MiB | full, MiB | full against none | more operations |")
    print("|---|---|---|---|---|---|---|")
    for name in options.nets:
        net, none, full = NETS[name], built(name, "none"), built(name, "full")
        blobs = none.cost().activations * none.precision.itemsize / 2**20
        kept, few = planned(none), planned(full)
        print(f"| {net.title} | {net.batch} | {blobs:.1f} | {kept:.1f} | {few:.1f} | {few / kept:.2f} | "
              f"{100 * repeated(full):.0f} % |", flush=True)


if __name__ == "__main__":
    main()
