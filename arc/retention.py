"""`arc retention`: how long rows are kept, by database and measurement.

In: a data directory, whether a daemon runs on it or not. Out: lists for people or JSON. Policies
are kept and applied in `ingest.retention`; a daemon that runs applies them by itself.
"""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from arc.delete import DataDirOption, JsonOption, YesOption, data_root, fail, opened

if TYPE_CHECKING:
    from ingest.retention import Outcome, Policy, PolicySpec, PolicyStore
    from ingest.upkeep import Upkeep

EXIT_FAILED = 1

_DURATION = re.compile(r"(\d{1,9})\s*([hdw])", re.ASCII)
_UNIT_S = {"h": 3_600, "d": 86_400, "w": 7 * 86_400}
_HEADERS = ("id", "name", "database", "measurement", "keep", "buffer", "active", "last run")

Database = Annotated[str, typer.Argument(metavar="DATABASE")]
Measurement = Annotated[
    str | None,
    typer.Argument(metavar="[MEASUREMENT]", help="Without: all that have no policy of their own."),
]
Keep = Annotated[
    str,
    typer.Option(
        "--keep", metavar="TIME", help="How long rows are kept: 90d, 12h, 8w. At least 1h."
    ),
]
Buffer = Annotated[
    str, typer.Option("--buffer", metavar="TIME", help="Kept for so much longer than that.")
]
Name = Annotated[str | None, typer.Option("--name", help="For people. Default: whose rows.")]
Inactive = Annotated[
    bool, typer.Option("--inactive", help="The daemon does not apply it by itself.")
]
Which = Annotated[str, typer.Argument(metavar="POLICY", help="Its id or its name.")]
WhichOnes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[POLICY]...", help="Ids or names. Default: all active ones."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    commands = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    commands.command("list")(list_policies)
    commands.command("set")(set_policy)
    commands.command()(remove)
    commands.command()(run)
    app.add_typer(commands, name="retention", help="Let rows go when they are old enough.")


def list_policies(data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the policies, with the latest run of each that took rows away or failed.

    Exits with 0, or 2 if it could not look.
    """
    with opened(data_root(data_dir)) as upkeep:
        found = upkeep.policies.policies()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found)).decode())
        return
    rows = [_row(policy) for policy in found]
    print("\n".join(_table([_HEADERS, *rows]) if rows else ["There are no policies."]))


def set_policy(
    database: Database,
    keep: Keep,
    measurement: Measurement = None,
    buffer: Buffer = "0d",
    name: Name = None,
    inactive: Inactive = False,
    data_dir: DataDirOption = None,
) -> None:
    """Keep rows of a database, or of one measurement of it, for so long; changes what was set.

    Deletes nothing itself: a daemon that runs does soon, or `arc retention run`.
    Exits with 0, or 2 if it could not be set.
    """
    from ingest.retention import PolicySpec

    given = name or (database if measurement is None else f"{database}.{measurement}")
    keep_s, buffer_s = _seconds(keep, "--keep"), _seconds(buffer, "--buffer")
    spec = PolicySpec(given, database, measurement, keep_s, buffer_s, not inactive)
    with opened(data_root(data_dir)) as upkeep:
        policy = _stored(upkeep.policies, spec, named=name is not None)
    shown = _shown_time(policy.spec.keep_s + policy.spec.buffer_s)
    print(f"Policy {policy.id}, {policy.spec.name}: rows are kept for {shown}.")


def _stored(policies: PolicyStore, spec: PolicySpec, *, named: bool) -> Policy:
    target = (spec.database, spec.measurement)
    for other in policies.policies():
        if (other.spec.database, other.spec.measurement) == target:
            changes = msgspec.structs.asdict(spec)
            if not named:
                del changes["name"]
            return policies.update(other.id, **changes)
    return policies.create(spec)


def remove(policy: Which, data_dir: DataDirOption = None) -> None:
    """Forget a policy; its rows are kept from then on.

    Exits with 0, or 2 if there is none.
    """
    with opened(data_root(data_dir)) as upkeep:
        found = _chosen(upkeep, policy)
        upkeep.policies.remove(found.id)
    print(f"Policy {found.id}, {found.spec.name}, is removed.")


def run(
    policies: WhichOnes = None,
    yes: YesOption = False,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply policies now: count the rows that are over their time and, with --yes, delete them.

    May run beside a daemon. Exits with 0, 1 if something went wrong with a table, 2 if it could
    not be done.
    """
    with opened(data_root(data_dir)) as upkeep:
        if policies:
            chosen = [_chosen(upkeep, given) for given in policies]
        else:
            chosen = [one for one in upkeep.policies.policies() if one.spec.is_active]
        outcomes = [upkeep.run_policy(one.id, dry_run=not yes) for one in chosen]
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(outcomes)).decode())
    else:
        print("\n".join(_outcome_lines(outcomes, yes)))
    sys.exit(EXIT_FAILED if any(outcome.error is not None for outcome in outcomes) else 0)


# --------------------------------------------------------------------------------------- showing


def _outcome_lines(outcomes: Sequence[Outcome], yes: bool) -> list[str]:
    verb = "are" if yes else "would be"
    lines = []
    for outcome in outcomes:
        where = f" of {', '.join(outcome.measurements)}" if outcome.measurements else ""
        lines.append(
            f"{outcome.policy_name}: {outcome.rows} rows{where} from before "
            f"{_moment(outcome.cutoff_us)} {verb} deleted, {outcome.files_removed} files removed, "
            f"{outcome.files_rewritten} rewritten."
        )
        if outcome.error is not None:
            lines.append(f"    failed: {outcome.error}")
    if not outcomes:
        return ["There are no active policies."]
    if not yes and any(outcome.rows for outcome in outcomes):
        lines.append("Nothing was changed; --yes deletes them.")
    return lines


def _row(policy: Policy) -> tuple[str, ...]:
    spec, last = policy.spec, policy.last
    shown = "" if last is None else f"{_moment(last.at_us)} {last.status}, {last.rows} rows"
    return (
        str(policy.id),
        spec.name,
        spec.database,
        spec.measurement or "",
        _shown_time(spec.keep_s),
        _shown_time(spec.buffer_s),
        "yes" if spec.is_active else "no",
        shown,
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _chosen(upkeep: Upkeep, given: str) -> Policy:
    """The policy of this id or name; ends the process where there is none."""
    policies = upkeep.policies.policies()
    for policy in policies:
        if given == str(policy.id):
            return policy
    for policy in policies:
        if given == policy.spec.name:
            return policy
    fail(f"there is no policy {given!r}; see arc retention list")


def _seconds(given: str, option: str) -> int:
    match = _DURATION.fullmatch(given.strip().lower())
    if match is None:
        fail(f"{option} {given!r}: wanted a whole number and h, d or w, such as 90d")
    return int(match[1]) * _UNIT_S[match[2]]


def _shown_time(seconds: int) -> str:
    return f"{seconds // 86_400}d" if seconds % 86_400 == 0 else f"{seconds // 3_600}h"


def _moment(time_us: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    moment = epoch + datetime.timedelta(microseconds=time_us)
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
