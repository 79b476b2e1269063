"""Collectives read from programs: texts as XLA writes them, and one that it compiles here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from jaffe.netdef import JaffeError
from jaffe.plan import Found, collectives
from tests.conftest import ROOT


def program(*lines: str, before: str = "", header: str = "num_partitions=8") -> str:
    body = "\n".join(f"  {line}" for line in lines)
    entry = f"ENTRY %main.1 (p: f32[4]) -> f32[4] {{\n{body}\n}}\n"
    return f"HloModule jit_f, is_scheduled=true, {header}\n\n{before}{entry}"


def only(line: str, header: str = "num_partitions=8") -> Found:
    (found,) = collectives(program(line, header=header))
    return found


GROUPS = "replica_groups={{0,1},{2,3},{4,5},{6,7}}, use_global_device_ids=true"


@pytest.mark.parametrize(("line", "kind", "size", "members"), [
    (f"%a = f32[6,4]{{1,0}} all-reduce(%p), channel_id=1, {GROUPS}, to_apply=%add", "all-reduce", 96, 2),
    (f"ROOT %a = f32[] all-reduce(%p), {GROUPS}, to_apply=%add", "all-reduce", 4, 2),
    (f"%a = (f32[], bf16[4]{{0}}, /*index=2*/s8[3]) all-reduce(%p, %q, %r), {GROUPS}", "all-reduce", 15, 2),
    ("%a = f32[4]{0:T(128)S(1)} all-reduce(%p), replica_groups={}, to_apply=%add", "all-reduce", 16, 8),
    ("%a = f32[4] all-reduce(%p), replica_groups=[2,4]<=[8], to_apply=%add", "all-reduce", 16, 4),
    ("%a = f32[4] all-reduce(%p), replica_groups=[4,2]<=[2,4]T(1,0), to_apply=%add", "all-reduce", 16, 2),
    ("%a = f32[4] all-reduce(%p), replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b'}, channel_id=7",
     "all-reduce", 16, 2),
    ("%a = f32[4] all-reduce(%p), replica_groups=mesh['b'=2,'c'=4] {'b','c'}, to_apply=%add", "all-reduce", 16, 8),
    ("%a = f32[4] all-reduce(%p), replica_groups=mesh['b'=2,'c'=4] {'c':(1)2}, to_apply=%add", "all-reduce", 16, 2),
    (f"%a = (f32[4], f64[2]) all-reduce-start(%p, %q), {GROUPS}, to_apply=%add", "all-reduce", 32, 2),
    (f"%a = f32[4,6] all-gather(%p), {GROUPS}, dimensions={{0}}", "all-gather", 96, 2),
    (f"%a = (f32[2,6]{{1,0}}, f32[4,6]{{1,0}}) all-gather-start(%p), {GROUPS}", "all-gather", 96, 2),
    (f"%a = ((f32[2], f32[3]), (f32[4], f32[6])) all-gather-start(%p, %q), {GROUPS}", "all-gather", 40, 2),
    (f"%a = f32[2,4] reduce-scatter(%p), {GROUPS}, dimensions={{0}}, to_apply=%add", "reduce-scatter", 64, 2),
    (f"%a = (f32[8], f32[4]) reduce-scatter-start(%p), {GROUPS}", "reduce-scatter", 32, 2),
    (f"%a = (f32[2,4], f32[2,4]) all-to-all(%p, %q), {GROUPS}", "all-to-all", 64, 2),
    (f"%a = f32[4,4] all-to-all(%p), {GROUPS}, dimensions={{0}}", "all-to-all", 64, 2),
    ("%a = u32[2,4] collective-permute(%p), source_target_pairs={{0,2},{2,4}}", "collective-permute", 32, 8),
    ("%a = (c64[3], c64[3], u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}",
     "collective-permute", 24, 8),
    (f"%a = pred[3] all-gather(%p), {GROUPS}", "all-gather", 3, 2),
    (f"%a = s4[5] all-gather(%p), {GROUPS}", "all-gather", 3, 2),
    (f"%a = f8e4m3fn[5] all-gather(%p), {GROUPS}", "all-gather", 5, 2),
])
def test_forms(line, kind, size, members):
    found = only(line)
    assert (found.kind, found.size, found.members, found.times) == (kind, size, members, 1)


def test_devices_are_partitions_and_replicas():
    found = only("%a = f32[4] all-reduce(%p), replica_groups={}", header="replica_count=2, num_partitions=3")
    assert found.members == 6


def test_other_instructions_are_passed_over():
    assert collectives(program("%d = f32[4] all-reduce-done(%a)", "%t = f32[4] get-tuple-element(%all-reduce), index=0",
                               '%c = f32[4] custom-call(%p), metadata={op_name="jit(f)/all-reduce(x)"}')) == []


LOOP = """\
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %r = f32[4]{0} all-reduce(%q), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%inner (p: f32[4]) -> f32[4] {
  %g = f32[4]{0} all-gather(%q), replica_groups={{0,1},{2,3}}
  %w = (s32[], f32[4]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}

%unused (p: f32[4]) -> f32[4] {
  %g = f32[4]{0} all-gather(%q), replica_groups={{0,1},{2,3}}
}

"""


def test_loops_and_calls():
    text = program("%w = (s32[], f32[4]) while(%t), condition=%cond, body=%inner, "
                   'backend_config={"known_trip_count":{"n":"5"}}',
                   "%c = f32[4] call(%p), to_apply=%inner",
                   "%u = (s32[], f32[4]) while(%t), condition=%cond, body=%inner",  # of unknown length
                   "%b = f32[4] conditional(%i, %p), branch_computations={%inner, %other}", before=LOOP)
    assert [(one.kind, one.times, one.sent) for one in collectives(text)] == [
        ("all-reduce", 8 * 3, 8 * 3 * 16), ("all-gather", 8, 8 * 8)]


def test_what_runs_aside_counts_once():
    before = "%aside (p: f32[8]) -> f32[4] {\n  ROOT %r = f32[4] reduce-scatter(%p), replica_groups={{0,1}}\n}\n\n"
    text = program("%s = ((f32[8]), f32[4], s32[]) async-start(%p), calls=%aside",
                   "%u = ((f32[8]), f32[4], s32[]) async-update(%s), calls=%aside",
                   "%d = f32[4] async-done(%u), calls=%aside", before=before)
    assert [(one.size, one.times) for one in collectives(text)] == [(32, 1)]


@pytest.mark.parametrize(("text", "message"), [
    ("module {}", "begins with HloModule; found 'module {}'"),
    ("HloModule f\n", "found one without an ENTRY computation"),
    (program("%a = f32[4] all-reduce(%p), to_apply=%add"), "a: expected replica_groups"),
    (program("%a = f32[4] all-reduce(%p), replica_groups={{0,1},{2}}"), "a: expected groups of equal size"),
    (program("%a = opaque[] all-gather(%p), replica_groups={}"), r"a: expected an array of numbers; found opaque\[\]"),
    (program("%a = f32[<=4] all-gather(%p), replica_groups={}"), r"a: expected sizes that are fixed; found f32\[<=4\]"),
    (program("%a = (f32[4] all-gather(%p), replica_groups={}"), "expected a shape whose brackets close"),
])
def test_what_cannot_be_read(text, message):
    with pytest.raises(JaffeError, match=message):
        collectives(text)


COMPILE = """
import dataclasses, json, jax, jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
from jaffe.plan import collectives

mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

def f(x, w):  # (2, 6), (6, 4) on each device
    gathered = lax.all_gather(x, "model", axis=0, tiled=True)
    y = gathered @ w
    exchanged = lax.all_to_all(y, "model", 0, 1, tiled=True)
    scattered = lax.psum_scatter(y, "model", scatter_dimension=0, tiled=True)
    moved = lax.ppermute(scattered, "data", [(i, (i + 1) % 4) for i in range(4)])
    total = lax.psum((exchanged.sum(), moved.sum(0)), ("data", "model"))
    looped, _ = lax.scan(lambda c, _: (lax.psum(2 * c, "data"), None), w, None, length=7)
    return total, looped

out = (P(), P(None, "model"))
run = jax.shard_map(f, mesh=mesh, in_specs=(P(("data", "model")), P(None, "model")), out_specs=out, check_vma=False)
arrays = (jax.ShapeDtypeStruct((16, 6), jnp.float32), jax.ShapeDtypeStruct((6, 8), jnp.float32))
found = collectives(jax.jit(run).lower(*arrays).compile().as_text())
print(json.dumps([[one.kind, one.size, one.members, one.times] for one in found]))
"""


def test_a_program_of_eight_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    done = subprocess.run([sys.executable, "-W", "error", "-c", COMPILE], cwd=ROOT, capture_output=True, text=True,
                          timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(map(tuple, json.loads(done.stdout))) == [
        ("all-gather", 4 * 6 * 4, 2, 1), ("all-reduce", (1 + 4) * 4, 8, 1), ("all-reduce", 6 * 4 * 4, 4, 7),
        ("all-to-all", 4 * 4 * 4, 2, 1), ("collective-permute", 2 * 4 * 4, 8, 1), ("reduce-scatter", 4 * 4 * 4, 2, 1)]
