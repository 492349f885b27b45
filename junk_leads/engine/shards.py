"""The shards of a drop: which files they are, and each as a local file for the steps to read.

What lives here: a folder or pattern made into a list of shards by fsspec (local paths, s3:// and whatever else it
knows), their manifest, which is what the ledger keeps of such a drop, and fetching one. What does not: reading a CSV
(`steps/leads/reading.py`), and where the work is done (`executors.py`). fsspec is imported when it is needed.
"""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from junk_leads.errors import DropRefused, JunkLeadsError, StorageUnavailable
from junk_leads.steps.leads.splitting import NAMED, SUFFIXES

MANIFEST = ".shards"  # how a manifest's name ends
WILDCARDS = "*?["
CHUNK_BYTES = 1 << 22
Content = Callable[[str], tuple[int, str]]


@dataclass(frozen=True)
class Shard:
    """One file of a drop: where it is, its bytes, and their SHA-256."""

    url: str
    size: int
    content: str

    @property
    def name(self) -> str:
        """The file's name alone."""
        return self.url.rsplit("/", 1)[-1]


def is_sharded(asked: str) -> bool:
    """Whether a name on the command line means shards: a folder, a pattern or an address, not a single file."""
    if "://" in asked:
        return True
    path = Path(asked)
    return path.is_dir() or (not os.path.lexists(path) and any(sign in path.name for sign in WILDCARDS))


def name_of(asked: str) -> str:
    """What a drop in shards is called: its folder, with the pattern where that says more than a file's ending."""
    *folders, last = (asked if "://" in asked else os.path.abspath(asked)).rstrip("/").split("/")
    if not any(sign in last for sign in WILDCARDS):
        return last or asked
    folder = next((part for part in reversed(folders) if part and not any(sign in part for sign in WILDCARDS)), "")
    return folder if last in {"*", *(f"*{suffix}" for suffix in SUFFIXES)} else f"{folder} {last}"


def find_shards(asked: str) -> list[str]:
    """The addresses of a folder's or pattern's files that are named as leads are, in order of their names.

    That is the order of the drop's leads. Raises DropRefused when there are none, StorageUnavailable when the storage
    cannot be listed.
    """
    with _storage_told(asked):
        system, path = _system(asked)
        if any(sign in path.rsplit("/", 1)[-1] for sign in WILDCARDS):
            found = system.glob(path, detail=True)
        elif system.isdir(path):
            found = {entry["name"]: entry for entry in system.ls(path, detail=True)}
        else:
            found = {path: system.info(path)} if system.exists(path) else {}
        names = [
            name
            for name, entry in found.items()
            if entry["type"] == "file"
            and name.lower().endswith(SUFFIXES)
            and not name.rsplit("/", 1)[-1].startswith(".")
        ]
        if not names:
            raise DropRefused(
                f"there is no file named {NAMED} in {asked!r}",
                do="check the name; quote a pattern, or the shell takes it apart",
            )
        return [system.unstrip_protocol(name) for name in sorted(names)]


def content_of_shard(url: str) -> tuple[int, str]:
    """A shard's bytes and their SHA-256; raises StorageUnavailable when it cannot be read."""
    digest, size = hashlib.sha256(), 0
    with _storage_told(url):
        system, path = _system(url)
        with system.open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
    return size, digest.hexdigest()


def shards_of(urls: Sequence[str], contents: Sequence[tuple[int, str]]) -> list[Shard]:
    """The shards at these addresses, of these sizes and contents; raises DropRefused when two are the same."""
    shards = [Shard(url, size, content) for url, (size, content) in zip(urls, contents, strict=True)]
    twice = next((content for content, times in Counter(s.content for s in shards).items() if times > 1), None)
    if twice is not None:
        names = [shard.name for shard in shards if shard.content == twice]
        raise DropRefused(
            f"the shards {' and '.join(map(repr, names[:3]))} have the same content",
            expected="each shard once",
            do="take the copy out of the folder and deliver it again",
        )
    return shards


def write_manifest(path: Path, shards: Sequence[Shard]) -> None:
    """Write which shards a drop has; the same shards in the same place give the same bytes."""
    path.write_text(json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1) + "\n", encoding="utf-8")


def read_manifest(path: Path) -> list[Shard]:
    """The shards of a manifest; raises DropRefused for what is none."""
    try:
        shards = [Shard(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))["shards"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DropRefused(
            f"{path.name!r} is no list of shards", do="deliver the folder of the shards itself"
        ) from error
    return shards


@contextmanager
def as_local_file(shard: Shard) -> Iterator[Path]:
    """The shard as a file on this machine: its own where that is local, else a copy for as long as it is needed.

    Raises DropRefused when the shard is not what the manifest says any more, StorageUnavailable when it cannot be read.
    """
    if content_of_shard(shard.url) != (shard.size, shard.content):
        raise DropRefused("it changed after it was delivered", do="deliver the shards again when they are complete")
    with tempfile.TemporaryDirectory(prefix="junk-leads-") as folder:
        with _storage_told(shard.url):
            system, path = _system(shard.url)
            local = Path(path)
            if "file" not in _protocols(system):
                local = Path(folder) / shard.name
                system.get_file(path, str(local))
        yield local


def _system(url: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it; a path without `://` is a local one."""
    import fsspec

    if "://" not in url:
        url = f"file://{os.path.abspath(url)}"
    system, path = fsspec.url_to_fs(url)
    system.invalidate_cache()  # what was listed a minute ago may be gone
    return system, str(path)


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def _storage_told(asked: str) -> Iterator[None]:
    """What a file system raises, as one plain line."""
    try:
        yield
    except JunkLeadsError:
        raise
    except Exception as error:  # each file system raises what the library behind it does
        why = getattr(error, "strerror", None) or str(error).strip().splitlines()[:1] or [type(error).__name__]
        why = why if isinstance(why, str) else why[0]
        raise StorageUnavailable(
            f"the storage of {asked!r} cannot be read ({why[:200]}); nothing was changed: every worker must see it "
            "under this name, try again when it is there"
        ) from error
