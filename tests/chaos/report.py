"""What a run tells: a table for people, one document for machines."""

from __future__ import annotations

from typing import Any

from tests.chaos.run import Outcome


def document(outcome: Outcome) -> dict[str, Any]:
    """Everything, as JSON has it."""
    verdict = outcome.verdict
    return {
        "sound": outcome.is_sound,
        "seed": outcome.seed,
        "faults": dict(sorted(outcome.faults.items())),
        "records": verdict.records,
        "aborted": outcome.aborted,
        "events": verdict.events,
        "letters": dict(sorted(verdict.letters.items())),
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "rows": verdict.rows,
        "transactions": outcome.transactions,
        "fencings": outcome.fencings,
        "opened_again": dict(sorted(outcome.resolutions.items())),
        "restores": outcome.restores,
        "restored_records": outcome.restored_records,
        "longest_stillness_s": round(outcome.still_s, 1),
        "ledger_balances": outcome.audit.get("balanced"),
        "seconds": round(outcome.seconds, 1),
        "wrong": {what: {"count": n, "examples": verdict.examples[what]} for what, n in verdict.wrong.items()},
    }


def show(outcome: Outcome) -> str:
    """A line for each figure, and what is wrong."""
    found = document(outcome)
    rows = [
        ("seed", str(found["seed"])),
        ("faults", _listed(found["faults"])),
        ("records of ingress", f"{found['records']:,}, and {found['aborted']:,} that were aborted"),
        ("events", f"{found['events']:,}"),
        ("dead letters", _listed(found["letters"])),
        ("lost", str(found["lost"])),
        ("doubled", str(found["doubled"])),
        ("rows of tables", _listed(found["rows"])),
        ("transactions", f"{found['transactions']:,}"),
        ("fencings", str(found["fencings"])),
        ("opened again", f"with a state that was {_listed(found['opened_again'])}"),
        ("restores", f"{found['restores']:,} parts of tables, {found['restored_records']:,} records"),
        ("longest without progress", f"{found['longest_stillness_s']} s"),
        ("ledger", "balances" if found["ledger_balances"] else "does not balance"),
        ("took", f"{found['seconds']} s"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    for what, wrong in found["wrong"].items():
        lines.append(f"WRONG {wrong['count']} times: {what}")
        lines.extend(f"    {example}" for example in wrong["examples"])
    lines.append("everything is there, once" if found["sound"] else "NOT SOUND")
    return "\n".join(lines)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
