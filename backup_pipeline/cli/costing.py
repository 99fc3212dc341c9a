"""The verbs about money: cost and plan-cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backup_pipeline.cli.call import Call
from backup_pipeline.cli.options import TIER, verb
from backup_pipeline.engine.errors import NotFound, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from backup_pipeline.cost.compare import Option
    from backup_pipeline.cost.rebuild import Verdict
    from backup_pipeline.cost.simulate import Measured
    from backup_pipeline.plan import Dataset
    from backup_pipeline.runner.costing import Bill

__all__ = ["cost", "plan_cost"]

SHOWN_OPTIONS = 15
_PRICED = {
    "--restores-per-year": (None, 1.0, "How often all of a dataset is restored."),
    "--egress": (1, 1.0, "Share of what is restored that leaves the store's network."),
    "--backup-per-hour": (None, 0.0, "Price of an hour of backing up: the machine."),
    "--restore-per-hour": (
        *(None, 0.0),
        "Price of an hour of a restore: machines, and people who wait.",
    ),
}


def _running(function: Callable[..., int]) -> Callable[..., int]:
    for name, (most, default, about) in reversed(_PRICED.items()):
        kind = click.FloatRange(0, most)
        option = click.option(name, type=kind, default=default, show_default=True, help=about)
        function = option(function)
    return function


@verb(bare=False)
@TIER
@_running
@click.option(
    "--recompute-per-hour",
    type=click.FloatRange(min=0),
    help="Price of an hour of the machines that compute datasets: compares with computing again,"
    " by the run history of the instance of DAGSTER_HOME.",
)
def cost(call: Call, tier: str | None, recompute_per_hour: float | None, **running: float) -> int:
    """Say what backups cost: C = C_store + C_backup + C_restore, a month.

    By what each store holds now, at the prices that the plan gives it; in a year, if the datasets
    grow as they did. With a price of computing, also whether a dataset had better be rebuilt.
    """
    from dataclasses import asdict

    from backup_pipeline.cost.simulate import Running

    with call.runner() as runner:
        bills = runner.bills(call.dataset, tier, Running(**running))
        if not bills:
            raise NotFound("nothing is stored that could cost anything", "back up first")
        document: Any = [one.to_json() for one in bills]
        if recompute_per_hour is None:
            call.answer(document, lambda: _show_bills(bills))
            return 0
        from backup_pipeline.asking import ask_event_log

        durations = ask_event_log("durations", list(dict.fromkeys(one.dataset for one in bills)))
        verdicts = runner.rebuilds(bills, durations, recompute_per_hour, Running(**running))
        document = {"bills": document, "rebuild": [asdict(one) for one in verdicts]}

        def show() -> None:
            _show_bills(bills)
            _show_rebuilds(verdicts, durations)

        call.answer(document, show)
    return 0


def _show_rebuilds(verdicts: Sequence[Verdict], durations: Mapping[str, Sequence[float]]) -> None:
    from backup_pipeline.cli.tables import print_table
    from backup_pipeline.engine.progress import human_seconds

    rows = [
        (
            one.dataset,
            human_seconds(one.rebuild_s),
            "–" if one.restore_s is None else human_seconds(one.restore_s),
            _money(one.rebuild_year),
            _money(one.backup_year),
            "never" if one.losses_to_pay is None else f"{one.losses_to_pay:.2g}",
            f"{one.choice}: {one.reason}",
        )
        for one in verdicts
    ]
    headings = "dataset >computing >restoring >computed-year >backups-year >losses-to-pay better"
    if rows:
        print_table(headings.split(), rows)
    for key, found in durations.items():
        if not found:
            print(f"{key}: Dagster knows no run that computed it; only a backup brings it back")


def _show_bills(bills: Sequence[Bill]) -> None:
    from backup_pipeline.cli.tables import print_table
    from backup_pipeline.engine.progress import human_bytes

    rows = [
        (
            one.dataset,
            one.tier,
            one.prices.name,
            human_bytes(one.stored_bytes),
            f"{one.objects:,}",
            *(_money(part) for part in (one.month.store, one.month.backup, one.month.restore)),
            _money(one.month.total),
            _money(one.year.total),
        )
        for one in bills
    ]
    headings = "dataset tier prices >stored >objects >store >backup >restore >month >in-a-year"
    print_table(headings.split(), rows)
    for currency in dict.fromkeys(one.prices.currency for one in bills):
        mine = [one for one in bills if one.prices.currency == currency]
        month = _money(sum(one.month.total for one in mine))
        year = _money(sum(one.year.total for one in mine))
        print(f"in all {month} {currency} a month, {year} in a year")


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


@verb(bare=False, content=True)
@_running
@click.option("--size", metavar="SIZE", help="Logical size, such as '2 TiB', instead of measured.")
@click.option("--change", metavar="N%", help="Share that is new each day, instead of measured.")
@click.option("--backup-speed", metavar="SIZE", help="Bytes a second, such as '200 MB'.")
@click.option("--restore-speed", metavar="SIZE", help="Bytes a second; else no restore is timed.")
@click.option("--rpo", metavar="DURATION", help="Tolerated age; default: the plan's.")
@click.option("--rto", metavar="DURATION", help="Tolerated time to recover; default: the plan's.")
@click.option("--prices", metavar="NAME", multiple=True, help="Only these; may be repeated.")
@click.option("--picture", metavar="FILE", help="Write cost against recovery point as an SVG.")
def plan_cost(call: Call, **options: Any) -> int:
    """Compare policies: kind, cadence, storage class and retention, by what they cost a month.

    On the dataset's own size, change and speed, as its snapshots tell them. Says which are
    bettered by none, which windows cannot be met, and what it would take.
    """
    from backup_pipeline.cost.compare import KEEPS, compare, frontier, recommend, usual_policies
    from backup_pipeline.cost.prices import PRICES, prices_of
    from backup_pipeline.cost.simulate import Running
    from backup_pipeline.plan.values import parse_duration

    names = ("restores_per_year", "egress", "backup_per_hour", "restore_per_hour")
    running = Running(**{name: options[name] for name in names})
    with call.runner() as runner:
        spec = runner.plan.dataset(call.wanted(runner))
        if spec.holds == "slice":
            raise UsageError(
                f"{spec.key} holds slices: each day is stored once, whatever the policy",
                "`backup-pipeline cost` says what that costs",
            )
        measured = _measured(runner, spec.key, options)
        prices = [prices_of(name) for name in options["prices"]] or list(PRICES.values())
        first = spec.first_tier
        keeps = {f"the plan's in {first.name}": first.keep, **KEEPS}
        rpo, rto = (
            None if given is None else parse_given(given, parse_duration).total_seconds()
            for given in (options["rpo"], options["rto"])
        )
        if rpo is None and first.name in spec.rpo:
            rpo = spec.rpo[first.name].total_seconds()
        if rto is None and spec.rto is not None:
            rto = spec.rto.total_seconds()
        everything = compare(measured, usual_policies(keeps), prices, running)
        best = frontier(everything)
        chosen = recommend([one for one in everything if one.keep == next(iter(keeps))], rpo, rto)
        if options["picture"]:
            from backup_pipeline.cli.frontier import frontier_picture

            text = frontier_picture(f"{spec.key}: cost of a month", everything, best, chosen)
            _write(options["picture"], text)
        warnings = _missed_windows(spec, measured)
        call.answer(
            _document(spec, measured, best, chosen, warnings, rpo, rto),
            lambda: _show(spec, measured, best, chosen, warnings, rpo, rto),
        )
    return 0


def parse_given(text: str, parse: Callable[[Any], Any]) -> Any:
    """A value as a plan writes it, given as an option.

    Raises:
        UsageError: It is none.
    """
    from pydantic_core import PydanticCustomError

    try:
        return parse(text)
    except PydanticCustomError as error:
        context = error.context or {}
        raise UsageError(str(context.get("message")), context.get("suggestion")) from None


def _measured(runner: Any, key: str, options: dict[str, Any]) -> Measured:
    from backup_pipeline.cost.simulate import Measured
    from backup_pipeline.plan.values import parse_share, parse_size

    given: dict[str, float] = {}
    for name, option, parse in (
        ("data_bytes", "size", parse_size),
        ("daily_change", "change", parse_share),
        ("backup_bytes_per_s", "backup_speed", parse_size),
        ("restore_bytes_per_s", "restore_speed", parse_size),
    ):
        if options[option] is not None:
            given[name] = float(parse_given(options[option], parse))
    try:
        return replace(runner.measured(key, given.get("daily_change")), **given)
    except NotFound:
        if {"data_bytes", "daily_change"} <= given.keys():
            return Measured(**given)
        raise


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text)
    except OSError as error:
        raise UsageError(
            f"the picture cannot be written to {path}: {error.strerror or error}",
            "name a file in a directory that is there",
        ) from None


def _missed_windows(spec: Dataset, measured: Measured) -> list[str]:
    """The plan's own tiers whose longest run, a full, takes longer than their cadence."""
    from backup_pipeline.cost.simulate import Policy, simulate
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    said: list[str] = []
    for tier in spec.tiers.values():
        rules = Policy(tier.every, tier.kind, tier.full_every, tier.keep)
        outcome = simulate(measured, rules)
        if not outcome.fits and outcome.longest_run_s is not None:
            needed = human_bytes(int(measured.data_bytes / outcome.window_s))
            said.append(
                f"tier {tier.name}: a full takes {human_seconds(outcome.longest_run_s)} and its"
                f" window is {human_seconds(outcome.window_s)}; {needed}/s would fit"
            )
    return said


def _describe(one: Option) -> dict[str, Any]:
    return {
        "kind": one.policy.kind,
        "every": one.policy.every,
        "full_every_days": None
        if one.policy.full_every is None
        else one.policy.full_every.total_seconds() / 86_400,
        "keep": one.keep,
        "prices": one.prices.name,
        "stored_bytes": round(one.outcome.usage.stored_bytes),
        "snapshots": round(one.outcome.snapshots, 1),
        "store": one.cost.store,
        "backup": one.cost.backup,
        "restore": one.cost.restore,
        "month": one.cost.total,
        "recovery_point_s": one.recovery_point_s,
        "recovery_time_s": one.recovery_time_s,
        "fits": one.outcome.fits,
    }


def _document(
    spec: Dataset,
    measured: Measured,
    best: Sequence[Option],
    chosen: Option | None,
    warnings: Sequence[str],
    rpo_s: float | None,
    rto_s: float | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "dataset": spec.key,
        "measured": asdict(measured),
        "rpo_s": rpo_s,
        "rto_s": rto_s,
        "frontier": [_describe(one) for one in best],
        "recommended": None if chosen is None else _describe(chosen),
        "warnings": list(warnings),
    }


def _show(
    spec: Dataset,
    measured: Measured,
    best: Sequence[Option],
    chosen: Option | None,
    warnings: Sequence[str],
    rpo_s: float | None,
    rto_s: float | None,
) -> None:
    from backup_pipeline.cli.tables import print_table
    from backup_pipeline.engine.progress import human_bytes, human_seconds

    growth = human_bytes(abs(int(measured.growth_bytes)))
    way = "less" if measured.growth_bytes < 0 else "more"
    print(
        f"{spec.key}: {human_bytes(int(measured.data_bytes))}, {measured.daily_change:.2%} new each"
        f" day, {growth} {way} each day, stored at {measured.compression:.0%} of its size"
    )
    rows = [
        (
            one.policy.kind,
            one.policy.every,
            one.keep,
            one.prices.name,
            human_bytes(int(one.outcome.usage.stored_bytes)),
            *(_money(part) for part in (one.cost.store, one.cost.backup, one.cost.restore)),
            _money(one.cost.total),
            human_seconds(one.recovery_point_s),
            "–" if one.recovery_time_s is None else human_seconds(one.recovery_time_s),
            "yes" if one.meets(rpo_s, rto_s) else "no",
        )
        for one in best[:SHOWN_OPTIONS]
    ]
    headings = "kind every keep prices >stored >store >backup >restore >month rpo rto meets"
    print_table(headings.split(), rows)
    if len(best) > SHOWN_OPTIONS:
        print(f"and {len(best) - SHOWN_OPTIONS} more that none betters; --json has all")
    if chosen is None:
        print("no policy that was looked at keeps what is promised")
    else:
        print(
            f"cheapest that keeps what is promised, retention as in the plan: {chosen.policy.kind}"
            f" every {chosen.policy.every} at {chosen.prices.name}, {_money(chosen.cost.total)}"
            " a month"
        )
    for text in warnings:
        print(f"CANNOT BE MET: {text}")
