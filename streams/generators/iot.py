"""Sensors: each device's temperature walks about a level of its own and follows the day."""

from __future__ import annotations

import math
from typing import Final

from streams.generators.draws import Draws, Weighted
from streams.generators.emission import Draft
from streams.generators.zipf import ZipfSampler

DAY_MS: Final = 86_400_000
ALERT_ABOVE_C: Final = 30.0
ALERT_BELOW_C: Final = 8.0

_FIRMWARE: Final = Weighted({"2.4.1": 70.0, "2.4.0": 20.0, "1.9.7": 10.0})
_LOCATIONS: Final = ("berlin/hall-1", "berlin/hall-2", "lyon/roof", "lyon/cellar", "porto/dock", "turku/yard")


class _Device:
    """What a device remembers."""

    __slots__ = ("battery", "drift", "firmware", "level", "location")

    def __init__(self, draws: Draws, rank: int) -> None:
        self.level = draws.between(17.0, 24.0)
        self.drift = 0.0
        self.battery = draws.between(40.0, 100.0)
        self.firmware = _FIRMWARE.pick(draws)
        self.location = _LOCATIONS[rank % len(_LOCATIONS)]


class Iot:
    """Events sensor.reading, sensor.status and device.alert, keyed by device."""

    text_timestamps = False

    def __init__(self, draws: Draws, keys: ZipfSampler) -> None:
        self._draws = draws
        self._keys = keys
        self._devices: dict[int, _Device] = {}

    def draft(self, event_time_ms: int) -> Draft:
        """The next event. The value of a reading or an alert is in degrees Celsius; a status has none."""
        draws = self._draws
        rank = self._keys.rank(draws.uniform())
        device = self._devices.get(rank)
        if device is None:
            device = self._devices[rank] = _Device(draws, rank)
        # Pulled back to 0, or the walk would leave any bounds.
        device.drift = 0.97 * device.drift + 0.4 * draws.normal()
        device.battery = device.battery - 0.01 if device.battery > 5.0 else 100.0
        # Coldest at 03:00 UTC, warmest at 15:00.
        day = -3.0 * math.cos(2.0 * math.pi * ((event_time_ms % DAY_MS) / DAY_MS - 0.125))
        celsius = round(device.level + device.drift + day, 2)
        dice = draws.uniform()
        if celsius > ALERT_ABOVE_C or celsius < ALERT_BELOW_C or dice < 0.01:
            return self._alert(rank, device, celsius)
        if dice < 0.08:
            return self._status(rank, device)
        return self._event(
            "sensor.reading",
            rank,
            celsius,
            {"unit": "celsius", "battery": round(device.battery, 1), "location": device.location},
        )

    def _alert(self, rank: int, device: _Device, celsius: float) -> Draft:
        rule = "too_hot" if celsius > ALERT_ABOVE_C else "too_cold" if celsius < ALERT_BELOW_C else "tamper"
        severity = "critical" if rule != "tamper" else "warning"
        payload: dict[str, object] = {
            "unit": "celsius",
            "rule": rule,
            "severity": severity,
            "location": device.location,
        }
        return self._event("device.alert", rank, celsius, payload)

    def _status(self, rank: int, device: _Device) -> Draft:
        draws = self._draws
        payload: dict[str, object] = {
            "battery": round(device.battery, 1),
            "firmware": device.firmware,
            "location": device.location,
            "network": {"type": draws.pick(("wifi", "lte", "lora")), "rssi_dbm": -40 - draws.below(60)},
            "uptime_s": draws.below(2_000_000),
        }
        return self._event("sensor.status", rank, None, payload)

    @staticmethod
    def _event(event_type: str, rank: int, value: float | None, payload: dict[str, object]) -> Draft:
        return Draft(event_type, None, f"device-{rank:06d}", value, f"gateway-{rank % 8}", payload)
