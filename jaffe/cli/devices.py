"""jaffe devices"""

from __future__ import annotations


def devices() -> None:
    """List the devices that JAX sees, and its version."""
    import jax

    print(f"jax {jax.__version__}, default backend {jax.default_backend()}")
    for device in jax.devices():
        stats = device.memory_stats() if device.platform != "cpu" else None
        memory = f", {stats['bytes_limit'] / 2**30:.1f} GiB" if stats and "bytes_limit" in stats else ""
        print(f"{device.platform}:{device.id}  {device.device_kind}{memory}")
