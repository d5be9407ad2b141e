"""Hostile and damaged `.pt` files: refused before a line of theirs runs, and told why."""

import builtins
import os
import zipfile
from pathlib import Path

import pytest
import torch

from tests.core.golden_files import released_checkpoint
from tests.core.released_factory import program_of, rewritten
from video2lora_core.errors import CheckpointError
from video2lora_core.released_archive import read_released_archive

GOLDEN = released_checkpoint()


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile(command: str) -> dict[str, object]:
    write = f"open({command!r}, 'w').close()"
    return {
        "posix.system": Calls(os.system, f"touch {command}"),
        "builtins.eval": Calls(builtins.eval, write),
        "builtins.exec": Calls(builtins.exec, write),
        "builtins.getattr": Calls(map, Calls(getattr, Calls(__import__, "os"), "system"), [write]),
        "builtins.bytearray": Calls(bytearray, 10**15),
        "os.open": Calls(os.open, command, os.O_CREAT),
        "pathlib.Path.touch": Calls(Path.touch, Path(command)),
    }


@pytest.mark.parametrize("is_hidden", [False, True], ids=["alone", "inside a released file"])
@pytest.mark.parametrize("name", sorted(hostile("")))
def test_a_hostile_pickle_is_refused_by_name_and_never_runs(tmp_path, name, is_hidden):
    victim = tmp_path / "executed"
    path = tmp_path / "hostile.pt"
    torch.save({"x": hostile(str(victim))[name]}, path)
    if is_hidden:
        # The golden file's own pickle, whose table holds one call more than it should.
        program, call = program_of(GOLDEN), program_of(path)
        call = call[call.index(b"c") :].removesuffix(b"s.")
        program = program[:2] + call + b"0" + program[2:]
        path = rewritten(GOLDEN, tmp_path / "hidden.pt", program=program)
    with pytest.raises(CheckpointError, match=r"wants to call .*hostile"):
        read_released_archive(path)
    assert not victim.exists()


def test_the_hostile_pickles_of_these_tests_do_run_where_nothing_stops_them(tmp_path):
    victim = tmp_path / "executed"
    torch.save({"x": hostile(str(victim))["builtins.eval"]}, tmp_path / "hostile.pt")
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert victim.exists()


def test_an_unknown_class_of_the_authors_code_is_refused_by_name(tmp_path):
    program = program_of(GOLDEN).replace(
        b"configs\nCtxEncoderArguments", b"configs\nOtherArguments"
    )
    path = rewritten(GOLDEN, tmp_path / "unknown.pt", program=program)
    with pytest.raises(CheckpointError, match=r"ctx_to_lora\.configs\.OtherArguments"):
        read_released_archive(path)


def test_a_pickle_of_another_protocol_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "new.pt", pickle_protocol=4)
    with pytest.raises(CheckpointError, match=r"PROTO 4, which torch.save does not write"):
        read_released_archive(tmp_path / "new.pt")


def test_a_zip_bomb_is_refused_before_it_unfolds(tmp_path):
    path = rewritten(
        GOLDEN,
        tmp_path / "bomb.pt",
        extra={"step-000001/data/999": bytes(50_000_000)},
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 2_000_000
    with pytest.raises(CheckpointError, match=r"is compressed, .* that claim to be"):
        read_released_archive(path)


def test_entries_that_share_their_bytes_are_a_bomb_too(tmp_path):
    path = tmp_path / "overlap.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b".")
        archive.writestr("a/data/0", bytes(100_000))
        for index in range(1, 40):
            twin = zipfile.ZipInfo(f"a/data/{index}")
            first = archive.getinfo("a/data/0")
            twin.file_size = twin.compress_size = first.file_size
            twin.CRC, twin.header_offset = first.CRC, first.header_offset
            archive.filelist.append(twin)
            archive.NameToInfo[twin.filename] = twin
        archive._didModify = True
    with pytest.raises(CheckpointError, match=r"claim \d+ bytes in a file of \d+ .*bomb"):
        read_released_archive(path)


def test_a_file_over_the_limit_is_refused_unread():
    with pytest.raises(CheckpointError, match="expected at most 1000"):
        read_released_archive(GOLDEN, max_file_bytes=1000)


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_a_truncated_file_is_refused(tmp_path, kept):
    data = GOLDEN.read_bytes()
    (tmp_path / "short.pt").write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match="cut off or damaged"):
        read_released_archive(tmp_path / "short.pt")


def test_a_flipped_bit_in_a_tensor_is_refused(tmp_path):
    data = bytearray(GOLDEN.read_bytes())
    with zipfile.ZipFile(GOLDEN) as archive:
        at = archive.getinfo("step-000001/data/0").header_offset
    data[at + 5000] ^= 1
    (tmp_path / "flipped.pt").write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"checksum of step-000001/data/0 is wrong"):
        read_released_archive(tmp_path / "flipped.pt")


@pytest.mark.parametrize("content", [b"", b"not a zip at all", b"\x80\x02}q\x00."])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "other.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match="no zip archive"):
        read_released_archive(tmp_path / "other.pt")


def test_torchs_old_format_is_refused_with_the_way_out(tmp_path):
    torch.save({"x": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"before 1.6, a bare pickle.*again with torch.save"):
        read_released_archive(tmp_path / "old.pt")


@pytest.mark.parametrize("name", ["step-000001/../../evil", "step-000001/a\\b", "step-000001/C:x"])
def test_an_entry_that_points_outside_is_refused(tmp_path, name):
    path = rewritten(GOLDEN, tmp_path / "outside.pt", extra={name: b"x"})
    with pytest.raises(CheckpointError, match="points outside"):
        read_released_archive(path)


def test_an_absolute_entry_is_refused(tmp_path):
    path = rewritten(GOLDEN, tmp_path / "absolute.pt", extra={"/etc/evil": b"x"})
    with pytest.raises(CheckpointError, match=r"points outside|one folder"):
        read_released_archive(path)


def test_a_symbolic_link_is_refused(tmp_path):
    path = rewritten(GOLDEN, tmp_path / "link.pt")
    link = zipfile.ZipInfo("step-000001/data/link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(CheckpointError, match="symbolic link"):
        read_released_archive(path)


def test_torchscript_is_refused(tmp_path):
    path = rewritten(GOLDEN, tmp_path / "script.pt", extra={"step-000001/code/m.py": b"x"})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_released_archive(path)


def test_a_storage_that_claims_more_than_its_entry_is_refused(tmp_path):
    """Read without this check it would show other memory of the process."""
    torch.save({"x": torch.arange(16.0)}, tmp_path / "honest.pt")
    program = program_of(tmp_path / "honest.pt")
    longer = program.replace(b"K\x10t", b"M\x00\x40t", 1).replace(b"K\x10\x85", b"M\x00\x40\x85", 1)
    assert longer != program
    path = rewritten(tmp_path / "honest.pt", tmp_path / "long.pt", program=longer)
    with pytest.raises(CheckpointError, match=r"restricted loader refuses it .*record size"):
        read_released_archive(path)


@pytest.mark.parametrize("damage", ["missing", "noise", "cut"])
def test_a_pickle_that_makes_no_sense_is_refused(tmp_path, damage):
    program = {"missing": b".", "noise": b"\xff\xfe", "cut": program_of(GOLDEN)[:500]}[damage]
    path = rewritten(GOLDEN, tmp_path / "senseless.pt", program=program)
    with pytest.raises(CheckpointError):
        read_released_archive(path)


def test_no_file_is_one_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such file"):
        read_released_archive(tmp_path / "absent.pt")
