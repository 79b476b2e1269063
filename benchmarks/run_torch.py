"""PyTorch: a net of ``torch_nets`` and its step, in one of three variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.job import Job, Stopwatch, Task
from benchmarks.nets import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY
from benchmarks.torch_nets import make

VARIANTS = ("contiguous", "channels_last", "compile")  # the last: ``torch.compile``, channels last too


def prepare(task: Task) -> Job:
    built, drawn = Stopwatch(), Stopwatch()
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, which is what JAX does there by default
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    data, label = task.data()
    x, y = torch.from_numpy(data).to(device), torch.from_numpy(label).long().to(device)
    if x.ndim == 2:
        x = x.long()
    with drawn:
        net = make(task.net, task.mode == "train").to(device)
        with torch.no_grad():
            net(x[:1])
    if x.ndim == 4 and task.variant != "contiguous":
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    # nn.LSTM has a second bias, which is added to the first.
    params = sum(value.numel() for name, value in net.named_parameters() if "bias_hh" not in name)
    with built:
        run = torch.compile(net) if task.variant == "compile" else net
    half = torch.autocast(device.type, torch.bfloat16, enabled=task.precision == "bfloat16")

    def wait(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def peak_bytes() -> int | None:
        return torch.cuda.max_memory_allocated() if device.type == "cuda" else None

    if task.mode == "infer":
        net.eval()

        @torch.inference_mode()
        def apply() -> torch.Tensor:
            with half:
                return nn.functional.softmax(run(x), -1)

        return Job(apply, wait, params, built, drawn, name, peak_bytes)
    optimizer = torch.optim.SGD(net.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with half:
            outputs = run(x)
            scores, *heads = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = mean_loss(scores, y) + sum(0.3 * mean_loss(head, y) for head in heads)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Job(step, wait, params, built, drawn, name, peak_bytes)


def mean_loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(scores.flatten(0, -2), labels.flatten())
