"""Listings whose answers break off: never taken for shorter than they are.

A listing that ends early would tell a source that its other objects were deleted, and a restore
that nothing is in its way.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import obstore.store
import pytest

from backup_pipeline.engine.errors import SourceError, StoreUnavailable
from backup_pipeline.engine.store import again, s3_settings
from backup_pipeline.engine.store.s3_settings import S3Settings
from backup_pipeline.engine.store.uploads import Uploads
from backup_pipeline.s3_server import S3Server
from backup_pipeline.sources.bucket import Bucket
from backup_pipeline.sources.cloud import CloudBucket
from backup_pipeline_tests.faults.proxy import Network, network
from backup_pipeline_tests.promises import Cases

pytestmark = [pytest.mark.services, pytest.mark.faults]
KEYS = [f"a/{number:04d}" for number in range(1005)]  # more than a page


def plain(settings: S3Settings) -> list[str]:
    return [one.key for page in Bucket(settings, page_size=400).pages("a/") for one in page]


def versions(settings: S3Settings) -> list[str]:
    return [one.key for page in Bucket(settings, page_size=400).version_pages("a/") for one in page]


def elsewhere(settings: S3Settings) -> list[str]:
    """As Google's and Azure's are listed, by the client for S3."""
    store = obstore.store.S3Store(
        settings.bucket,
        endpoint=settings.endpoint,
        access_key_id=settings.access_key_id,
        secret_access_key=settings.secret_access_key,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={
            "max_retries": s3_settings.RETRIES,
            "backoff": {"init_backoff": s3_settings.FIRST_PAUSE},
        },
    )
    return [one.key for page in CloudBucket(store, "gs://lake").pages("a/") for one in page]


def in_the_way(settings: S3Settings) -> list[str]:
    return list(Uploads(settings).present())


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    """A bucket with versions, and more keys than fit into a page."""
    name = f"listed-{secrets.token_hex(4)}"
    client: Any = s3_server.client()
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=name, Key=key, Body=b"1"), KEYS))
    return name


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (again, s3_settings):
        monkeypatch.setattr(module, "FIRST_PAUSE", timedelta(milliseconds=5))


@pytest.fixture
def net(s3_server: S3Server) -> Iterator[Network]:
    with network(s3_server.endpoint) as found:
        yield found


@pytest.mark.promise("errors")
@pytest.mark.parametrize("fate", ["broken", "torn"])
@pytest.mark.parametrize("listing", [plain, versions, elsewhere, in_the_way])
def test_a_listing_that_breaks_off_is_whole_or_an_error(
    s3_server: S3Server,
    net: Network,
    bucket: str,
    listing: Callable[[S3Settings], list[str]],
    fate: str,
    cases: Cases,
) -> None:
    options = {**s3_server.options(f"s3://{bucket}/a"), "endpoint": net.endpoint}
    del options["url"]
    settings = S3Settings.read(bucket, "a", options)
    assert listing(settings) == KEYS
    pages = len(net.requests)
    assert pages >= 2
    for page in (1, pages):
        first = len(net.requests) + page
        broken = (first, first + 1)
        net.decide = lambda request, broken=broken: fate if request.number in broken else ""
        assert listing(settings) == KEYS
        cases.add()
        first = len(net.requests) + page
        net.decide = lambda request, first=first: fate if request.number >= first else ""
        with pytest.raises((SourceError, StoreUnavailable)) as caught:
            listing(settings)
        assert caught.value.hint
        assert len(caught.value.message.splitlines()) == 1
        assert len(net.requests) <= first + s3_settings.RETRIES
        cases.add()
