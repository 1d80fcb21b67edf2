"""How a storage is found to be: what probes and the work on it told, in; its health, out. Pure decisions.

It goes down in steps and up in steps, and each needs several answers alike: a storage that answers every other time is
Degraded, and does not come and go.
"""

from dataclasses import dataclass
from datetime import timedelta

from lightkeeper.domain.states import Health

WINDOW = timedelta(minutes=10)
"""Work that failed is looked at for so long."""
BAN_AFTER = 3
"""Probes in a row that failed."""
BACK_AFTER = 2
"""Probes in a row that succeeded, until a Banned storage is used again, and a protocol goes before the next one."""
GOOD_AFTER = 3
"""Probes in a row that succeeded, until a Degraded storage is Good."""
MUCH, SOME = 5, 2
"""Failures of work that degrade a storage; fewer than SOME let it be Good again."""
MUCH_OF, SOME_OF = 0.2, 0.1
"""The same, as a part of all work on it."""
LONGEST = 15
"""A Banned storage is probed again after so many times the usual wait at the most."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of a storage. `failed`, `succeeded`: its last probes, in a row, by the protocol that answers best.
    `work_failed`, `work_done`: in the last WINDOW; `error`: what the last failure said."""

    health: Health
    failed: int
    succeeded: int
    work_failed: int = 0
    work_done: int = 0
    error: str = ""


def judge(found: Found) -> tuple[Health, str]:
    """The health that follows, and why."""
    of_all = found.work_failed / max(1, found.work_failed + found.work_done)
    much = found.work_failed >= MUCH and of_all >= MUCH_OF
    some = found.work_failed >= SOME and of_all >= SOME_OF
    if found.health is Health.GOOD:
        if found.failed:
            return Health.DEGRADED, f"a probe failed: {found.error}"
        if much:
            return Health.DEGRADED, f"{found.work_failed} reads or writes failed lately: {found.error}"
    if found.health is Health.DEGRADED:
        if found.failed >= BAN_AFTER:
            return Health.BANNED, f"{found.failed} probes in a row failed: {found.error}"
        if found.succeeded >= GOOD_AFTER and not some:
            return Health.GOOD, f"{found.succeeded} probes in a row succeeded"
    if found.health is Health.BANNED and found.succeeded >= BACK_AFTER:
        return Health.DEGRADED, f"it answers again: {found.succeeded} probes in a row succeeded"
    return found.health, ""


def answers(before: bool, failed: int, succeeded: int) -> bool:
    """Whether a protocol is used: not from its first failure on until several probes succeeded."""
    return not failed and (before or succeeded >= BACK_AFTER)


def next_probe(health: Health, failed: int, used: bool, every: timedelta) -> timedelta:
    """The wait before the next probe: short while something is to be found out, growing while nothing answers."""
    if health is Health.GOOD and used:
        return every
    if failed > BAN_AFTER:
        return min(every / 4 * 2 ** min(failed - BAN_AFTER, 10), every * LONGEST)
    return every / 4
