"""Functions that a plan of the tests names: what users write, and what they get wrong."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Answer:
    passed: Any
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    description: str | None = None


def loads(place: Path) -> bool:
    print("this is no part of the answer")
    return (place / "orders.parquet").exists()


def sees(place: Path) -> Answer:
    found = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
    return Answer(True, {"found": ", ".join(found), "count": len(found), "nan": float("nan")})


def predicts(place: Path) -> Answer:
    import joblib

    model = joblib.load(place / "model.joblib")
    accuracy = float(model.score([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]))
    return Answer(accuracy >= 0.99, {"accuracy": accuracy})


def raises(place: Path) -> bool:
    raise KeyError("label\nof two lines")


def leaves(place: Path) -> bool:
    sys.exit(0)


def says_no(place: Path) -> bool:
    return False


def says_nothing(place: Path) -> None:
    os.fspath(place)


def says_one(place: Path) -> Any:
    return 1


def says_maybe(place: Path) -> Any:
    return Answer("yes")


def takes_nothing() -> bool:
    return True


def empty_suite() -> Any:
    import great_expectations as gx

    return gx.ExpectationSuite(name="empty")


def own_suite() -> Any:
    import great_expectations as gx

    expected = gx.expectations.ExpectColumnMeanToBeBetween(column="price", min_value=1, max_value=9)
    return gx.ExpectationSuite(name="own", expectations=[expected])


NOT_A_FUNCTION = 3
