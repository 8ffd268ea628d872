"""TF32: float32 numbers multiplied on CUDA's tensor cores, their mantissas rounded to 10 bits; sums stay float32."""

import torch

from pipeline.config import RuntimeConfig

OFF, CONVOLUTIONS, ON = "off", "convolutions", "on"
# Matrix products are left alone by default, as by torch: losses have some (distances, Gram matrices) and stay float32.
MEANS = {"auto": CONVOLUTIONS, "on": ON, "off": OFF}
AMPERE = (8, 0)  # the first compute capability that has it
WHERE = {
    OFF: "off",
    CONVOLUTIONS: "in convolutions (runtime.tf32=on: in matrix products too)",
    ON: "in convolutions and matrix products",
}


def settle(runtime: RuntimeConfig, device: torch.device) -> str:
    """Sets torch's switches as runtime.tf32 asks; what is in force then: off, convolutions, or on (both).

    A CPU has no TF32, and its switches are left alone: one of them lets oneDNN round matrix products there.
    """
    if device.type != "cuda":
        return OFF
    asked = MEANS[runtime.tf32]
    # torch.compile reads these switches by either of their names; setting them by the newer one makes the older raise.
    torch.backends.cudnn.allow_tf32 = asked != OFF
    torch.backends.cuda.matmul.allow_tf32 = asked == ON
    return asked if torch.cuda.get_device_capability(device) >= AMPERE else OFF


def header(runtime: RuntimeConfig, device: torch.device, in_force: str) -> str:
    """The line of a run that says what its numbers are rounded to."""
    where = WHERE[in_force]
    if runtime.tf32 == "on" and in_force == OFF:
        name = "a CPU" if device.type == "cpu" else "this GPU"
        where += f": runtime.tf32=on has no effect, {name} has none"
    return f"autocast {runtime.amp}, TF32 {where}"
