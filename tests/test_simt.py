"""The runner of CUDA kernels on the CPU (tests/simt): it computes what CUDA does, and sees what a kernel does wrong."""

from functools import partial

import pytest
import torch
from simt import ptx
from simt.runner import Failure, Launch, Out, Shared, Traffic, count, run, run_asan

FAULTS = {
    "missing_barrier": "elements of 'y' were not written, or from memory that was not",
    "write_after_read": "'y' depends on the order of threads",
    "exit_before_barrier": "divergent barrier: 1 threads returned; 63 threads wait at faults.cpp:",
    "two_barriers": "divergent barrier: 32 threads wait at faults.cpp:.*; 32 threads wait at faults.cpp:",
    "exit_before_shuffle": "divergent shuffle, vote or __syncwarp: 33 threads returned; 31 threads wait at",
    "partial_mask": "a mask that is not full",
    "read_behind": r"reads 4 bytes behind the end of 'x', in thread 63 of block \(2,0,0\)",
    "read_in_front": r"reads 4 bytes in front of 'x', in thread 0 of block \(0,0,0\)",
    "write_behind": r"writes 4 bytes behind the end of 'y', in thread 63 of block \(2,0,0\)",
    "write_input": "writes the input 'x', in thread 3",
    "raw_pointer": r"reads global memory otherwise than by load\(\) and store\(\)",
    "null_pointer": "reads at a null pointer",
    "misaligned": "reads 16 bytes of 'x' at once where they are not aligned",
    "shared_just_behind": "writes behind the end of 'three'",
    "shared_behind": "writes .* bytes behind the end of 'tile', in thread 3",
    "unwritten": "1 elements of 'y' were not written, or from memory that was not; the first is 70",
    "uninitialised_shared": "3 elements of 'y' were not written, or from memory that was not; the first is 58",
    "spinning": r"no end: does it wait in a loop for another thread\?",
}


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3 * 64)


def reverse(fault: str, x: torch.Tensor, **options) -> torch.Tensor:
    return run("faults", f"reverse_{fault}", x=x, y=Out(x.shape), n=x.numel(), **options)["y"]


def test_a_kernel_without_fault_passes(x):
    assert torch.equal(reverse("none", x), x.view(3, 64).flip(1).flatten())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault, x):
    with pytest.raises(Failure, match=FAULTS[fault]):
        reverse(fault, x, limit=0.2)


def test_the_runner_goes_on_after_a_fault(x):
    for fault in ("shared_behind", "two_barriers", "read_behind"):
        with pytest.raises(Failure):
            reverse(fault, x)
        test_a_kernel_without_fault_passes(x)


def test_asan_sees_what_pages_do_not(x):
    arguments = {"x": x, "y": Out(x.shape), "n": x.numel()}
    run_asan("faults", "reverse_none", **arguments)
    for fault, kind in {"shared_just_behind": "use-after-poison", "local_behind": "stack-buffer-overflow"}.items():
        with pytest.raises(Failure, match=kind):
            run_asan("faults", f"reverse_{fault}", **arguments)


def test_the_fibers_that_other_processors_use(x):
    y = reverse("none", x, flags="-O1 -DSIMT_UCONTEXT")
    assert torch.equal(y, x.view(3, 64).flip(1).flatten())


def test_intrinsics():
    """Against the definitions in the CUDA C++ programming guide."""
    lanes = [list(range(32)), list(range(32, 64))]

    def shuffle(source, width=32):
        """source(place in the segment) gives the place to read from; outside of the segment a lane keeps its own."""
        out = []
        for warp in lanes:
            for lane in range(32):
                place = source(lane % width)
                out.append(warp[lane - lane % width + place if 0 <= place < width else lane])
        return out

    rows = run("faults", "intrinsics", out=Out((16, 64), torch.int32))["out"].tolist()
    assert rows[0] == [3] * 32 + [35] * 32
    assert rows[1] == shuffle(lambda _: 1, 8)  # 9 modulo 8
    assert rows[2] == shuffle(lambda p: p - 2)
    assert rows[3] == shuffle(lambda p: p - 2, 16)
    assert rows[4] == shuffle(lambda p: p + 5)
    assert rows[5] == shuffle(lambda p: p + 5, 8)
    assert rows[6] == shuffle(lambda p: p ^ 17)
    assert rows[7] == shuffle(lambda p: p + 1)
    assert rows[8] == [0b111] * 64
    assert rows[9] == [0] * 32 + [1] * 32
    assert rows[10] == [1] * 32 + [0] * 32
    assert rows[11] == [22] * 64
    assert rows[12] == [1] * 64
    assert rows[13] == [0] * 64
    assert (rows[14][0], rows[14][32]) == (sum(lanes[0]), sum(lanes[1]))
    assert rows[15][0] == sum(range(64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_warp_multiplies_tiles(dtype, **options):
    a, b = torch.randn(2, 16, 16).to(dtype)
    expected = 2 * a.double() @ b.double().T
    name = f"tile_{str(dtype).removeprefix('torch.')}"
    call = partial(run, "faults", name, a=a, b=b, c=Out((16, 16)), **options)
    torch.testing.assert_close(call(forget_barrier=False)["c"].double(), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(Failure, match="'c'"):
        call(forget_barrier=True)


def test_a_warp_multiplies_floats_on_tensor_cores(**options):
    """Rounded to 11 significant bits, as numbers that have no more stay."""
    rough = (torch.randn(2, 16, 16).half() / 8).float()
    fine = rough * (1 + 0.9 * 2**-12)  # rounds to rough
    for a, b in (rough, fine):
        c = run("faults", "tile_tf32", a=a, b=b, c=Out((16, 16)), forget_barrier=False, **options)["c"]
        torch.testing.assert_close(c.double(), 2 * rough[0].double() @ rough[1].double().T, rtol=1e-5, atol=1e-5)


def test_a_warp_multiplies_bytes(**options):
    a, b = torch.randint(256, (16, 32)).to(torch.uint8), torch.randint(-128, 128, (8, 32)).to(torch.int8)
    words = {"a": a.view(torch.int32), "b": b.view(torch.int32)}
    got = run("faults", "bytes", **words, c=Out((16, 8), torch.int32), products=Out((32,), torch.int32), **options)
    assert torch.equal(got["c"].long(), a.long() @ b.long().T)
    four = (a[:8, :16].long() * b[:, :16].long()).view(32, 4).sum(1)
    assert torch.equal(got["products"].long(), four + 1000)


@pytest.mark.parametrize("shift", [0, 1, 8, 31])
def test_matrices_are_loaded_as_the_manual_says(shift):
    """Lane l gets word l % 4 of row l / 4 of each matrix, after a barrier whoever wrote it; one left out is seen."""
    x = torch.randint(2**31 - 1, (2, 4, 8, 4), dtype=torch.int32)  # warp, matrix, row, word
    call = partial(run, "faults", "matrices", x=x, y=Out((2, 32, 4), torch.int32), shift=shift)
    assert torch.equal(call(forget_barrier=False)["y"], x.permute(0, 2, 3, 1).reshape(2, 32, 4))
    with pytest.raises(Failure, match="'y'"):
        call(forget_barrier=True)


@pytest.mark.parametrize("n", [768, 701])
def test_copies_arrive(n, **options):
    y = run("faults", "copies_none", x=torch.arange(float(n)), y=Out((3, 256)), blocks=3, n=n, **options)["y"]
    expected = torch.cat([torch.arange(float(n)), torch.zeros(768 - n)]).view(3, 256).flip(1)
    assert torch.equal(y, expected)


HALF, BFLOAT16 = (partial(test_a_warp_multiplies_tiles, dtype) for dtype in (torch.float16, torch.bfloat16))
TF32, BYTES = test_a_warp_multiplies_floats_on_tensor_cores, test_a_warp_multiplies_bytes
COPIES = partial(test_copies_arrive, 701)


@pytest.mark.slow  # each compiles: `make test-kernels`
@pytest.mark.parametrize(
    ("right", "wrong", "check"),
    [
        ('"r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0)', '"r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b0)', HALF),
        ('"r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0)', '"r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b0)', TF32),
        ('"r"(b0), "r"(b1)', '"r"(b1), "r"(b0)', BFLOAT16),
        ('"+f"(c1), "+f"(c2)', '"+f"(c2), "+f"(c1)', HALF),
        ('"+f"(c0)', '"=f"(c0)', HALF),
        ('"bf16.bf16"', '"f16.f16"', BFLOAT16),
        ('"m16n8k16", "f16.f16"', '"m16n8k8", "f16.f16"', HALF),
        ('"=r"(to[1]), "=r"(to[2])', '"=r"(to[2]), "=r"(to[1])', HALF),
        ('"cvt.rna.tf32.f32 %0, %1;"', '"mov.b32 %0, %1;"', TF32),
        ('"r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0])', '"r"(a[2]), "r"(a[1]), "r"(a[3]), "r"(b[0])', BYTES),
        ('"r"(b[0]), "r"(b[1])', '"r"(b[1]), "r"(b[0])', BYTES),
        ("s32.u8.s8.s32", "s32.s8.u8.s32", BYTES),
        ("dp4a.u32.s32", "dp4a.s32.u32", BYTES),
        ('asm volatile("cp.async.wait_all;" ::: "memory");', "", COPIES),
        ('"r"(bytes)\n               : "memory"', '"r"(bytes)', COPIES),
        ("[%1], 16, %2;", "[%1], 16;", COPIES),
    ],
)
def test_wrong_instructions_are_caught(right, wrong, check):
    """The runner executes the PTX that stands in the device code."""
    with pytest.raises(AssertionError):  # of a Failure, too
        check(plant=(right, wrong), flags="-O0")


def test_asm_statements_become_calls_on_their_lines():
    source = """
f();
asm volatile("add.u32 %0, %1, %2; // : (" : "=r"(sum) : "r"(g(a, b)),
             "r"(static_cast<uint32_t>(c)) : "memory");
asm("wait;"); h();
"""
    made = ptx.translated(source).split("\n")
    operands = '{"=r", sum}, {"r", g(a, b)}, {"r", static_cast<uint32_t>(c)}'
    assert made[2] == (
        '[&] { static const simt::Instruction simt_it("add.u32 %0, %1, %2; // : (" ); '
        f"simt_it(true, {{{operands}}}); }}()"
    )
    assert made[3] == ";"
    assert made[4].endswith("simt_it(false, {}); }(); h();")
    assert len(made) == len(source.split("\n"))


@pytest.mark.slow  # compiles: `make test-kernels`
@pytest.mark.parametrize(
    ("branch", "check"),
    [
        ("#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800\n  unsigned char", COPIES),
        ("#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800 // as the lanes", BYTES),
    ],
)
def test_the_forms_before_compute_capability_8(branch, check):
    check(plant=(branch, branch.replace("defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800", "1")))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no_wait", "touches shared memory that a copy has yet to fill"),
        ("no_barrier", "'y' .* were not written, or from memory that was not|of 'y' were not written"),
        ("late_wait", "touches shared memory that a copy has yet to fill"),
        ("overwritten", "'y' depends on the order of threads"),
        ("misaligned", "a copy from global memory that is not aligned to 16 bytes"),
    ],
)
def test_a_wrong_copy_is_caught(fault, message):
    with pytest.raises(Failure, match=message):
        run("faults", f"copies_{fault}", x=torch.randn(1024), y=Out((3, 256)), blocks=3, n=1024)


def test_copies_under_way_are_counted():
    """By hand: 64 threads copy 16 bytes each time before they wait, in all 3 KiB."""
    found = count("faults", "copies_none", x=torch.zeros(768), y=Out((3, 256)), blocks=3, n=768)
    assert found.launches[0].copied == 1024
    assert found.buffers == {"x": 96, "y": 96}


@pytest.mark.parametrize(
    ("launch", "message"),
    [
        ((0, 1, 32, 0, 0), "a launch of no block"),
        ((1, 65536, 32, 0, 0), "a grid beyond CUDA's limits"),
        ((1, 1, 48, 0, 0), "a block that is not 1 to 32 whole warps"),
        ((1, 1, 1056, 0, 0), "a block that is not 1 to 32 whole warps"),
        ((100, 1, 1024, 0, 50), "more than 5 million waits of threads"),
    ],
)
def test_a_launch_beyond_the_limits_is_refused(launch, message):
    names = ("grid_x", "grid_y", "block", "dynamic_bytes", "barriers")
    with pytest.raises(Failure, match=message):
        run("faults", "launch_of", **dict(zip(names, launch, strict=True)))


def test_the_number_of_arguments_is_checked(x):
    with pytest.raises(Failure, match="expected 3 arguments, got 2"):
        run("faults", "reverse_none", x=x, y=Out(x.shape))


def test_sectors_are_counted():
    """By hand: 2 blocks of 2 warps, 4 loads and 4 stores of each lane."""
    y = Out((64,))
    found = count("faults", "traffic", x=torch.zeros(64), y=y, stride=1, wide=False)
    assert found.loads == found.stores == Traffic(requests=16, sectors=64, asked=2048, block_sectors=16)
    assert found.buffers == {"x": 16, "y": 16}
    (launch,) = found.launches
    assert launch == Launch(launch.symbol, blocks=2, threads=64, dynamic_shared=0, idle=0, copied=0)
    assert "traffic_kernel" in launch.symbol
    found = count("faults", "traffic", x=torch.zeros(64 * 16), y=y, stride=16, wide=False)
    # A sector for each float.
    assert found.loads == Traffic(requests=16, sectors=512, asked=2048, block_sectors=128)
    found = count("faults", "traffic", x=torch.zeros(64 * 4), y=y, stride=4, wide=True)
    assert found.loads == Traffic(requests=16, sectors=256, asked=8192, block_sectors=64)


@pytest.mark.parametrize(
    ("width", "stride", "wavefronts", "least"),
    [
        (4, 1, 1, 1),
        (4, 2, 2, 1),
        (4, 32, 32, 1),
        (4, 33, 1, 1),
        (4, 0, 1, 1),  # one word for all
        (8, 2, 2, 2),
        (16, 4, 4, 4),
        (16, 8, 8, 4),
        (16, 36, 4, 4),
    ],
)
def test_bank_conflicts_are_counted(width, stride, wavefronts, least):
    """By hand: a warp stores `width` bytes of each lane, `stride` words apart."""
    found = count("faults", f"banks_{width}", out=Out((32,)), stride=stride)
    assert found.shared == Shared(requests=1, wavefronts=wavefronts, least=least)


@pytest.mark.parametrize(("channels", "taps"), [(32, 50), (32, 9), (16, 26)])
def test_taps_are_turned_without_bank_conflicts(channels, taps):
    weight = torch.randn(channels, taps)
    call = {"weight": weight, "out": Out((taps, channels))}
    assert torch.equal(run("faults", f"taps_{channels}_{taps}", **call)["out"], weight.T)
    shared = count("faults", f"taps_{channels}_{taps}", **call).shared
    assert shared.wavefronts == shared.least == shared.requests


def test_a_sample_of_the_blocks_stands_for_all():
    n = 122 * 64
    found = count("faults", "reverse_none", x=torch.zeros(n), y=Out((n,)), n=n)
    assert found.loads == found.stores == Traffic(requests=244, sectors=976, asked=4 * n, block_sectors=976)
    assert found.buffers == {"x": 976, "y": 976}


def test_blocks_without_work_are_counted():
    found = count("faults", "launch_of", grid_x=3, grid_y=5, block=64, dynamic_bytes=100, barriers=1)
    (launch,) = found.launches
    assert launch == Launch(launch.symbol, blocks=15, threads=64, dynamic_shared=100, idle=15, copied=0)
