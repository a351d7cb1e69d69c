"""A configuration as the tests of schemas, snapshots and changes need it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from holdfast.config.document import Document
from holdfast.config.layers import from_file
from holdfast.config.schema import Schema
from holdfast.config.secret import Secret, SecretText
from holdfast.core.duration import Duration
from holdfast.core.kinds import Reader
from holdfast.core.rate import RATE, Rate
from holdfast.core.settings import Seconds, Settings, about, read_table


class ClientSettings(Settings, frozen=True):
    """What one client may do."""

    rate: Annotated[Rate | str | float, about("How many, and per what.", reader=RATE)]
    burst: Annotated[int, about("How many at once.", ge=1)] = 5


def _clients(value: Any) -> ClientSettings | None:
    return None if value is None else read_table(ClientSettings, value)


class AdmissionSettings(Settings, frozen=True):
    """What comes before the app."""

    trusted_proxies: Annotated[tuple[str, ...], about("Who is believed.")] = ()
    clients: Annotated[
        ClientSettings | None, about("For each client.", reader=Reader(_clients, "a table with rate and burst"))
    ] = None
    lanes: Annotated[int, about("How many lanes.", ge=1, le=64, live=False)] = 4


class RouteSettings(Settings, frozen=True):
    """One route."""

    match: Annotated[str, about("Method and path.")]
    timeout: Annotated[Seconds, about("How long it may take.", gt=0)] = Duration(5.0)
    criticality: Annotated[Literal["critical_plus", "critical", "sheddable"], about("What it is worth.")] = "critical"
    bulkhead: Annotated[int | None, about("How many at a time.", ge=1)] = None
    token: Annotated[SecretText | None, about("What callers must show.")] = None

    def check(self) -> None:
        if self.bulkhead is not None and self.criticality == "sheddable":
            raise self.wrong("bulkhead", "no bulkhead where criticality is sheddable")


class AppSettings(Settings, frozen=True):
    """The app's own."""

    currency: Annotated[str, about("Of all prices.")] = "EUR"
    pin: Annotated[str, about("Of the door.", secret=True, min_length=4)] = "0000"
    database: Annotated[SecretText, about("Where the data are.")] = Secret("")


SCHEMA = Schema(
    {
        "admission": AdmissionSettings,
        "routes": list[RouteSettings],
        "errors": dict[str, str],
        "settings": AppSettings,
    },
    restart=("errors",),
)


def document(text: str, directory: Path) -> Document:
    """The document in a file ``holdfast.toml`` with ``text``."""
    file = directory / "holdfast.toml"
    file.write_text(text)
    return from_file(file)


def values(**sections: Any) -> Document:
    """A document of plain values."""
    return Document.of(sections, "file", "holdfast.toml")


NO_ENV: Mapping[str, str] = {}
