"""The same protocol in an object store: S3, as moto's server speaks it on the loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from forge import PIPELINE, ROWS, Batch, shown

from nightjar.core.errors import Conflict, DamagedRelease, EnvironmentFault, StorageFault
from nightjar.core.releases import ReleaseLog
from nightjar.core.releases.diff import diff
from nightjar.core.releases.objects import ObjectStore
from nightjar.core.releases.vacuum import Retention, vacuum
from nightjar.core.releases.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
Batches = dict[tuple[int, str], Batch]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def place(endpoint: str) -> str:
    import s3fs

    bucket = f"b{uuid.uuid4().hex[:12]}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/published/{PIPELINE}"


@pytest.fixture
def log(place: str) -> ReleaseLog:
    return ReleaseLog(Path(), PIPELINE, ObjectStore(place))


def read(log: ReleaseLog) -> dict[str, int]:
    """Rows by run, through pyarrow and the store's own client."""
    import pyarrow.dataset as ds

    store = log.store
    assert isinstance(store, ObjectStore)
    files = [f.removeprefix("s3://") for f in log.files(log.require())]
    table = ds.dataset(files, filesystem=store.files).to_table()
    runs = table["run"].to_pylist()
    assert len(set(zip(runs, table["k"].to_pylist(), strict=True))) == len(runs)
    return {run: runs.count(run) for run in set(runs)}


def test_a_listing_longer_than_a_page_is_whole(log: ReleaseLog, batches: Batches) -> None:
    """S3 lists a thousand keys at a time; the newest entry stands on the last page."""
    store = log.store
    assert isinstance(store, ObjectStore)
    batches[0, "a"].publish(log)
    newest = store.read("log/0000000001.json").replace(b'"version": 1,', b'"version": 1100,')
    names = [f"log/{i:010d}.json" for i in range(2, 1101)]
    store.files.pipe({f"{store.prefix}/{name}": newest for name in names})
    assert len(log.versions()) == 1100
    assert log.head().version == 1100


def test_publish_rollback_pin_vacuum_verify(log: ReleaseLog, batches: Batches) -> None:
    first, landed = batches[0, "a"].publish(log)
    assert landed
    assert batches[0, "a"].publish(log) == (first, False)
    batches[1, "a"].publish(log)
    third, _ = batches[0, "b"].publish(log)
    assert read(log) == {"2013-01-01/b": 2 * ROWS, "2013-01-02/a": 2 * ROWS}
    assert verify(log, third) == third.bytes
    assert diff(log, first, third).as_dict()["added"] == 2 * ROWS
    log.rollback(first.id)
    assert read(log) == {"2013-01-01/a": 2 * ROWS}
    log.rollback(third.id)
    log.pin(first.id)
    at_once = Retention(releases=1, grace=timedelta(seconds=-5))
    vacuum(log, at_once)
    assert {r.id for r in log.all()} == {first.id, third.id}
    log.unpin(first.id)
    vacuum(log, at_once)
    vacuum(log, at_once)
    assert log.all() == [third]
    assert log.store.names("trash")
    vacuum(log, at_once)
    assert not log.store.names("trash")
    assert verify(log, third) == third.bytes
    with pytest.raises(StorageFault):
        log.folder(third)


def test_racing_publishers_land_once(place: str, batches: Batches) -> None:
    for run in "ab":
        logs = [ReleaseLog(Path(), PIPELINE, ObjectStore(place)) for _ in range(8)]
        with ThreadPoolExecutor(8) as pool:
            landed = [f[1] for f in pool.map(batches[0, run].publish, logs)]
        assert landed.count(True) == 1
    assert len(logs[0].versions()) == 2


def test_a_put_that_the_client_repeats_has_landed(log: ReleaseLog) -> None:
    assert log.store.put_if_absent("log/x", b"mine")
    assert log.store.put_if_absent("log/x", b"mine")
    assert not log.store.put_if_absent("log/x", b"other")
    assert log.store.read("log/x") == b"mine"


def test_an_upload_that_dies_shows_nothing(
    log: ReleaseLog, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches[0, "a"].publish(log)
    store = log.store
    assert isinstance(store, ObjectStore)
    for name in ("receive", "digest", "put_if_absent", "point"):
        with monkeypatch.context() as patch:

            def fail(*args: object, **options: object) -> None:
                raise OSError(5, "the line is dead")

            patch.setattr(store, name, fail)
            with pytest.raises(StorageFault):
                batches[1, "a"].publish(log)
        assert len(shown(log)) == (2 if name == "point" else 1)
    assert batches[1, "a"].publish(log)[1] is False


def test_an_altered_object_is_noticed(log: ReleaseLog, batches: Batches) -> None:
    release, _ = batches[0, "a"].publish(log)
    store = log.store
    assert isinstance(store, ObjectStore)
    store.files.pipe_file(log.files(release)[0], b"PAR1")
    with pytest.raises(DamagedRelease):
        verify(log, release)


def test_a_store_without_a_conditional_put_is_refused() -> None:
    with pytest.raises(EnvironmentFault):
        ObjectStore("memory://bucket/x")


def test_the_place_is_chosen_by_the_environment(
    place: str, batches: Batches, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nightjar.core.project import Project
    from nightjar.core.query import query_releases

    monkeypatch.setenv("NIGHTJAR_PUBLISHED", place.rpartition("/")[0])
    log = ReleaseLog(tmp_path, PIPELINE)
    batches[0, "a"].publish(log)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / f"{PIPELINE}.yaml").touch()
    answer = query_releases(Project(tmp_path, tmp_path), "SELECT count(*) FROM scores")
    assert answer.rows == [(2 * ROWS,)]
    assert os.listdir(tmp_path) == ["pipelines"]
    partition = {"files": {"part-9": {"rows": 1, "bytes": 1, "sha256": ""}}}
    with pytest.raises(Conflict):
        log.publish("scores", batches[1, "a"].ds, "k", batches[1, "a"].folder, partition)
