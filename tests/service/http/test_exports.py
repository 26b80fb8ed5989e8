"""Exports: asked for over HTTP, written by a process, fetched as an archive."""

import io
import tarfile
from pathlib import Path

import pytest
from support.services import serving, wait_for
from support.study_files import simulated_study, write_models

from evomerge.client.downloads import Archive, unpack


@pytest.mark.timeout(240)
def test_a_trial_is_exported_and_fetched_by_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    study = simulated_study(write_models(tmp_path / "models"), name="real")
    url = f"sqlite:///{tmp_path}/jobs.db"
    with serving(url, tmp_path / "spool", capacity=1) as service:
        assert service.submit("mine", study).status == 201
        assert service.call("POST", "/v1/studies/mine/exports").status in (202, 404)
        wait_for(lambda: service.state("mine") in ("finished", "failed"), 120)
        asked = {"trial": 2, "is_scored": False}
        first = service.call("POST", "/v1/studies/mine/exports", asked)
        assert first.status == 202
        again = service.call("POST", "/v1/studies/mine/exports", asked)
        assert again.data["id"] == first.data["id"]
        path = f"/v1/studies/mine/exports/{first.data['id']}"
        missing = {"trial": 99, "is_scored": False}
        bad = service.call("POST", "/v1/studies/mine/exports", missing).data
        wait_for(lambda: service.call("GET", path).data["state"] == "finished", 100)
        done = service.call("GET", path).data
        whole = service.call("GET", f"{path}/files")
        assert whole.status == 200
        assert len(whole.text) == done["bytes"]
        part = service.call("GET", f"{path}/files", headers={"Range": "bytes=100-199"})
        assert (part.status, part.text) == (206, whole.text[100:200])
        with tarfile.open(fileobj=io.BytesIO(whole.text)) as tar:
            assert "recipe.json" in tar.getnames()
        (tmp_path / "model.tar").write_bytes(whole.text)
        archive = Archive(done["id"], done["bytes"], done["fingerprint"])
        out = unpack(tmp_path / "model.tar", tmp_path / "out", archive)
        assert (out / "README.md").is_file()
        bad_path = f"/v1/studies/mine/exports/{bad['id']}"
        wait_for(lambda: service.call("GET", bad_path).data["state"] == "failed", 60)
        assert "99" in service.call("GET", bad_path).data["why"]
        assert service.call("GET", f"{bad_path}/files").status == 409
        folder = tmp_path / "spool" / "ann" / "mine"
        assert folder.exists()
        assert service.call("DELETE", "/v1/studies/mine").status == 204
        assert not folder.exists()
        assert service.call("GET", "/v1/studies/mine").status == 404
        assert service.submit("mine", study).status == 201
