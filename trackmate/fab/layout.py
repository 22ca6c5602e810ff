"""What the simulated fab has: tools with chambers, recipes with steps, sensors that drift, and what goes wrong there."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sensor:
    """A measured value: its target, its noise, and how far it drifts in a simulated minute."""

    name: str
    target: float
    noise: float
    drift: float


@dataclass(frozen=True)
class StepSpec:
    """One step of a recipe: its usual length in seconds, and what is measured in it."""

    name: str
    seconds: float
    sensors: tuple[Sensor, ...] = ()


@dataclass(frozen=True)
class ToolSpec:
    """One tool: its chambers, the recipe it runs, and how it can fail (error type, message, chance a wafer)."""

    name: str
    application: str
    chambers: tuple[str, ...]
    recipe: str
    steps: tuple[StepSpec, ...]
    faults: tuple[tuple[str, str, float], ...]
    slow_chamber: str | None = None
    """A chamber that needs longer than its twin: something for the reader of the data to find."""
    sure_fault_at: int | None = None
    """Which wafer of the shift fails whatever the dice say, so that the shortest shift has an error to show."""


_PRESSURE = Sensor("chamber_pressure_pa", 2.6, 0.05, 0.02)
_RF = Sensor("rf_power_w", 1200.0, 6.0, 9.0)
_REFLECTED = Sensor("rf_reflected_w", 4.0, 0.6, 1.2)

TOOLS: tuple[ToolSpec, ...] = (
    ToolSpec(
        "LITHO-01",
        "scanner-control",
        ("STAGE-A", "STAGE-B"),
        "EXPOSE-M1",
        (
            StepSpec("align", 0.05, (Sensor("overlay_nm", 2.1, 0.3, 0.1),)),
            StepSpec("expose", 0.12, (Sensor("dose_mj_cm2", 28.5, 0.15, 0.08), Sensor("focus_nm", 0.0, 6.0, 4.0))),
        ),
        (("AlignmentError", "mark 4 not found after 3 tries", 0.004), ("DoseOutOfRange", "dose control lost lock", 0.002)),
    ),
    ToolSpec(
        "ETCH-01",
        "etch-control",
        ("CH-A", "CH-B"),
        "POLY-ETCH-7",
        (
            StepSpec("pump_down", 0.05, (_PRESSURE,)),
            StepSpec("main_etch", 0.16, (_PRESSURE, _RF, _REFLECTED)),
            StepSpec("over_etch", 0.07, (_RF, _REFLECTED)),
        ),
        (
            ("PlasmaIgnitionError", "no ignition within 2 s: reflected power too high", 0.010),
            ("GasFlowError", "MFC 3 off its set point", 0.004),
        ),
        slow_chamber="CH-B",
        sure_fault_at=6,
    ),
    ToolSpec(
        "CVD-01",
        "deposition-control",
        ("CH-1", "CH-2", "CH-3"),
        "TEOS-400",
        (
            StepSpec("heat_up", 0.08, (Sensor("heater_c", 400.0, 0.8, 1.5),)),
            StepSpec(
                "deposit", 0.22, (Sensor("heater_c", 400.0, 0.8, 1.5), Sensor("teos_flow_sccm", 950.0, 4.0, 6.0), _PRESSURE)
            ),
            StepSpec("purge", 0.06),
        ),
        (("HeaterFault", "zone 2 does not follow its set point", 0.003), ("GasFlowError", "MFC 1 off its set point", 0.005)),
    ),
    ToolSpec(
        "CMP-01",
        "polisher-control",
        ("PLATEN-1", "PLATEN-2"),
        "OXIDE-POLISH-2",
        (
            StepSpec("polish", 0.15, (Sensor("downforce_kpa", 21.0, 0.2, 0.3), Sensor("platen_rpm", 93.0, 0.4, 0.1))),
            StepSpec("clean", 0.07, (Sensor("particles", 12.0, 3.0, 5.0),)),
        ),
        (("WaferSlip", "wafer lost under the carrier", 0.005), ("EndpointTimeout", "no endpoint within the time limit", 0.007)),
    ),
    ToolSpec(
        "METRO-01",
        "metrology",
        ("HEAD-1",),
        "THICKNESS-49",
        (StepSpec("measure", 0.11, (Sensor("thickness_nm", 412.0, 1.4, 2.2), Sensor("nonuniformity_pct", 1.1, 0.1, 0.12))),),
        (("MeasurementOutlier", "site 17 differs by more than 6 sigma", 0.008),),
    ),
)

PRODUCTS = ("SRAM-16M", "MCU-40", "SENSOR-HV")
OPERATORS = ("ana", "bram", "chen", "divya")
WAFERS_A_LOT = 25
