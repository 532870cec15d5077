"""A stand-in for huggingface_hub: repositories are folders of this machine, and no network is there."""

from __future__ import annotations

import fnmatch
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What is on the hub, and what it was asked.

    Attributes:
        repositories: the files of each, by ("dataset" or "model", OWNER/NAME).
        commits: the commit that each branch or tag is at.
        asked: the calls, in order.
        fails: what every call raises instead.
    """

    repositories: dict[tuple[str, str], Path] = field(default_factory=dict)
    commits: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    asked: list[str] = field(default_factory=list)
    fails: Exception | None = None

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.fails:
            raise self.fails

    def repo_info(self, repo_id: str, *, repo_type: str, revision: str) -> Any:
        self._ask("repo_info")
        if (repo_type, repo_id) not in self.repositories:
            raise OSError(f"404 Client Error.\n\nRepository Not Found: {repo_id}")
        return SimpleNamespace(sha=self.commits[revision])

    def snapshot_download(
        self, repo_id: str, *, repo_type: str, revision: str, local_dir: Path, allow_patterns: Any
    ) -> str:
        self._ask("snapshot_download")
        root = self.repositories[repo_type, repo_id]
        for file in root.rglob("*"):
            name = file.relative_to(root).as_posix()
            wanted = allow_patterns is None or any(fnmatch.fnmatch(name, one) for one in allow_patterns)
            if file.is_file() and wanted:
                (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, local_dir / name)
        notes = local_dir / ".cache" / "huggingface"  # as the library does
        notes.mkdir(parents=True, exist_ok=True)
        (notes / ".gitignore").write_text("*")
        return str(local_dir)

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool) -> None:
        self._ask(f"create_repo {repo_id} {repo_type} private={private}")
        if (repo_type, repo_id) in self.repositories:
            raise OSError("409 Client Error: you already created this repo")

    def upload_folder(self, *, repo_id: str, repo_type: str, folder_path: Path, commit_message: str) -> Any:
        self._ask("upload_folder")
        self.repositories[repo_type, repo_id] = Path(folder_path)
        return SimpleNamespace(oid=COMMIT)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """Put a hub in place of the library."""
    from dpvision.images import hub as ours

    hub = Hub()
    module: Any = ModuleType("huggingface_hub")
    module.HfApi = lambda: hub
    module.snapshot_download = hub.snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    ours._commit.cache_clear()
    return hub
