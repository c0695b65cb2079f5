"""Benchmarks of faces: packed pairs that are not unpickled, templates, galleries; each protocol against plain loops."""

import io
import pickle
import pickletools
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from search import face_run, verification
from supernet.data import benchmarks, pair_files
from supernet.data.benchmarks import DISTRACTOR, Benchmark, Identification, Pairs, Templates, open_benchmark
from supernet.errors import UserError


def picture(value: int, path: Path | None = None) -> bytes:
    """A picture of one shade."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 255 - value, value // 2)).save(file, "png")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
    return file.getvalue()


PICTURES = [picture(40 * i) for i in range(6)]
SAME = [True, False, True]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("outer", [tuple, list])
def test_packed_pairs_are_read_as_python_writes_them(tmp_path, protocol, outer):
    path = tmp_path / "lfw.bin"
    again = [*PICTURES[:4], PICTURES[0], PICTURES[0]]  # one object thrice: a reference
    path.write_bytes(pickle.dumps(outer((again, SAME)), protocol))
    assert pair_files.read(path) == (again, SAME)
    path.write_bytes(pickle.dumps((again, [int(same) for same in SAME]), protocol))
    assert pair_files.read(path) == (again, SAME)


def python_2(pictures: list[bytes], same: list[bool]) -> bytes:
    """As Python 2 wrote strings, by protocol 2, an item after the other."""
    body = b"".join(b"T" + struct.pack("<i", len(p)) + p + b"a" for p in pictures)
    return b"\x80\x02]q\x01" + body + b"]q\x02" + b"".join(b"\x88a" if s else b"\x89a" for s in same) + b"\x86q\x03."


def test_packed_pairs_are_read_as_python_2_wrote_them(tmp_path):
    path = tmp_path / "cfp_fp.bin"
    path.write_bytes(python_2(PICTURES, SAME))
    assert pickle.loads(path.read_bytes(), encoding="bytes") == (PICTURES, SAME)
    assert pair_files.read(path) == (PICTURES, SAME)


class Evil:
    """What unpickling would run."""

    def __reduce__(self):
        return open, ("/dev/null", "w")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickle.dumps((PICTURES, [Evil()])), "STACK_GLOBAL|SHORT_BINUNICODE"),
        (pickle.dumps((PICTURES, [Evil()]), 2), "GLOBAL"),
        (pickle.dumps((PICTURES, SAME), 0), "refused"),
        (pickle.dumps((PICTURES, {"a": 1})), "EMPTY_DICT"),
        (b"\x80\x02cos\nsystem\n(U\x02idtR.", "GLOBAL"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(U\x02idios\nsystem\n.", "INST"),
        (b"\x80\x02]P1\n.", "PERSID"),
        (b"\x80\x02]}b.", "EMPTY_DICT"),
        (
            b"\x80\x02]r\xff\xff\xff\x7f" + b"h\x01.",
            "1",
        ),  # a place that is far away costs nothing; one that is not there
        (b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f" + b"a.", "bytes"),  # more than there is
        (pickle.dumps((PICTURES, SAME))[:-9], ""),
        (b"", ""),
        (b"\x80\x02e.", "takes more"),
        (b"\x80\x02)Ua.", ""),
        (b"\x80\x02))a.", "no list"),
        (b"\x80\x02.", "pop"),
        (pickle.dumps([PICTURES]), "two lists"),
        (pickle.dumps((PICTURES[:5], SAME)), "expected two pictures for each pair, got 5 for 3"),
        (pickle.dumps(([], [])), "got 0 for 0"),
        (pickle.dumps((PICTURES, [1, 2, 0])), "truths alone"),
        (pickle.dumps(([1, 2], [True])), "bytes of pictures alone"),
        (pickle.dumps((PICTURES, (True, False, True))), "two lists"),
    ],
)
def test_what_is_more_than_lists_is_refused(tmp_path, monkeypatch, content, told):
    monkeypatch.setattr(pickle, "loads", None)
    path = tmp_path / "pairs.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"pairs.bin is no file of pairs as insightface packs them: .*({told})"):
        pair_files.read(path)


def test_every_other_instruction_is_refused():
    """By the list that Python has of them, so that none slips in with a newer protocol."""
    followed = {"PROTO", "FRAME", "MARK", "STOP", "EMPTY_LIST", "LIST", "TUPLE", "APPEND", "APPENDS", "MEMOIZE"}
    followed |= pair_files.CONSTANTS.keys() | pair_files.BYTES | pair_files.NUMBERS | pair_files.TUPLES.keys()
    followed |= pair_files.PUTS | pair_files.GETS
    dangerous = {
        "GLOBAL",
        "STACK_GLOBAL",
        "REDUCE",
        "BUILD",
        "INST",
        "OBJ",
        "NEWOBJ",
        "NEWOBJ_EX",
        "EXT1",
        "EXT2",
        "EXT4",
    }
    dangerous |= {"PERSID", "BINPERSID", "NEXT_BUFFER", "DUP", "DICT", "EMPTY_SET", "BYTEARRAY8"}
    names = {instruction.name for instruction in pickletools.opcodes}
    assert followed | dangerous <= names
    assert not followed & dangerous


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(UserError, match="cannot read the pairs file"):
        pair_files.read(tmp_path / "none.bin")


class Shade(torch.nn.Module):
    """An embedding of two numbers: the mean of the first channel and of the third."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * x.mean((2, 3))[:, [0, 2]]


def shades(benchmark: Benchmark) -> np.ndarray:
    """Embeddings of all images."""
    return np.concatenate([2 * Shade()(x).detach().numpy() for x, _ in benchmark.images.in_order(4)])


def test_packed_pairs_are_embedded_as_files_are(tmp_path):
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((PICTURES, SAME)))
    for i, content in enumerate(PICTURES):
        path = tmp_path / "lfw" / ("a" if i < 2 or i > 3 else f"b{i}") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "lfw" / "pairs.txt").write_text("a 1 2\nb2 1 b3 1\na 3 4\n")
    packed, files = (open_benchmark(tmp_path / name, 8) for name in ("lfw.bin", "lfw"))
    assert packed.name == files.name == "lfw"
    assert isinstance(packed.protocol, Pairs)
    one, other = shades(packed), shades(files)
    for side in ("first", "second"):
        a, b = one[getattr(packed.protocol, side)], other[getattr(files.protocol, side)]
        np.testing.assert_array_equal(a, b)
    assert packed.protocol.same.tolist() == files.protocol.same.tolist() == SAME
    broken = tmp_path / "broken.bin"
    broken.write_bytes(pickle.dumps(([b"no picture", PICTURES[0]], [True])))
    with pytest.raises(UserError, match=r"broken.bin: picture 0 cannot be read"):
        shades(open_benchmark(broken, 8))


def test_templates_are_judged_as_by_hand(tmp_path):
    """The media of a template count alike, however many frames they have."""
    root, rng, rows = tmp_path / "ijbb", np.random.default_rng(0), []
    for template in (10, 11, 12, 13):
        for medium in (1, 2):
            for frame in range(int(rng.integers(1, 4))):
                name = f"{template}_{medium}_{frame}.png"
                picture(int(rng.integers(256)), root / "images" / name)
                rows.append((name, template, medium))
    rng.shuffle(rows)
    (root / "ijbb_face_tid_mid.txt").write_text("".join(f"{name} {t} {m}\n" for name, t, m in rows))
    pairs = [(a, b, int(a % 2 == b % 2)) for a in range(10, 14) for b in range(a + 1, 14)] * 4
    (root / "ijbb_template_pair_label.txt").write_text("".join(f"{a} {b} {same}\n" for a, b, same in pairs))
    benchmark = open_benchmark(root, 8)
    assert isinstance(benchmark.protocol, Templates)
    pixels, pooled = shades(benchmark), {}
    for template in (10, 11, 12, 13):
        media = [
            [
                x
                for x, row in zip(pixels, rows, strict=True)
                if row[1:] == (str(template), str(m)) or row[1:] == (template, m)
            ]
            for m in (1, 2)
        ]
        pooled[template] = sum(np.mean(frames, axis=0) for frames in media)
    scores = [pooled[a] @ pooled[b] / np.linalg.norm(pooled[a]) / np.linalg.norm(pooled[b]) for a, b, _ in pairs]
    judged = face_run.judge(Shade(), benchmark)
    same = np.array([same == 1 for *_, same in pairs])
    assert judged["tar_at_far"] == {"0.1": verification.tar_at_far(np.array(scores), same, 0.1)}
    assert (judged["templates"], judged["pairs"]) == (4, len(pairs))
    (root / "ijbb_template_pair_label.txt").write_text("10 99 1\n")
    with pytest.raises(UserError, match="has the template 99, of which"):
        open_benchmark(root, 8)


def test_distractors_are_nobody_s_match(tmp_path):
    root = tmp_path / "tinyface"
    for part, names in {
        "Probe": ["3_1", "7_1", "7_2"],
        "Gallery_Match": ["3_2", "7_3"],
        "Gallery_Distractor": ["3_9", "unknown"],  # their names say nothing
    }.items():
        for i, name in enumerate(names):
            picture(60 * i + len(part), root / part / f"{name}.png")
    benchmark = open_benchmark(root, 8)
    of = benchmark.protocol
    assert isinstance(of, Identification)
    assert of.identity.tolist() == [3, 7, 7, 3, 7, DISTRACTOR, DISTRACTOR]
    assert of.gallery.tolist() == [False] * 3 + [True] * 4
    judged = face_run.judge(Shade(), benchmark)
    assert (judged["probes"], judged["gallery"], judged["distractors"]) == (3, 4, 2)
    assert judged["rank"].keys() == {"1"}
    picture(1, root / "Probe" / "8_1.png")
    with pytest.raises(UserError, match="Gallery_Match has no image of the probes' identity 8"):
        open_benchmark(root, 8)


def test_places_in_a_gallery_are_those_of_a_sort():
    rng = np.random.default_rng(0)
    probes, gallery = rng.integers(-2, 3, (300, 3)), rng.integers(-2, 3, (40, 3))  # many are equally similar
    of, identities = rng.integers(12, size=300), rng.integers(10, size=40)
    found = verification.ranks(probes.astype(float), of, gallery.astype(float), identities)
    similar = verification.unit(probes.astype(float)) @ verification.unit(gallery.astype(float)).T
    for probe in range(300):
        order = sorted(range(40), key=lambda g: (-similar[probe, g], g))
        places = [place for place, g in enumerate(order, 1) if identities[g] == of[probe]]
        assert found[probe] == (places[0] if places else 41)


def test_names_of_benchmarks_are_different(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lfw.bin").write_bytes(pickle.dumps((PICTURES, SAME)))
    with pytest.raises(UserError, match="two benchmarks are called lfw"):
        benchmarks.open_all([tmp_path / "a" / "lfw.bin", tmp_path / "b" / "lfw.bin"], 8)
