"""A generation at once against one architecture at a time: scores, statistics, memory, memoisation."""

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score

from search import evaluator as evaluator_module
from search.evaluator import LARGEST_BATCH, Evaluator, Walk, groups, images_at_once, prefix_tree, work
from supernet import spaces
from supernet.data import sets
from supernet.data.images import Batches
from supernet.errors import UserError
from supernet.executor import Threads
from supernet.families import flops, layout
from supernet.model import Supernet, batch_norms
from supernet.training.bn import recalibrate_bn
from supernet.training.evaluation import evaluate
from tests.conftest import refused, tiny_space


def images(space, n=32):
    """Recalibration batches, and validation batches of which the last is short."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, space.channels, space.resolution, space.resolution, generator=generator)
    y = torch.randint(10, (n,), generator=generator)
    return list(x.split(8))[:2], list(zip(x.split(12), y.split(12), strict=True))


def setup(space=None, kernels="fused"):
    space = space or tiny_space()
    return space, Supernet(space, kernels=kernels).train(), *images(space)


def population(space, n=8, seed=0):
    """Random architectures, half of them relatives of the others: prefixes of every length are shared."""
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(n // 2)]
    cuts = rng.integers(len(space.genes), size=n - n // 2)
    return archs + [(*archs[i % len(archs)][:cut], *space.sample(rng)[cut:]) for i, cut in enumerate(cuts)]


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_a_generation_scores_as_one_by_one(small_space, kernels):
    space, supernet, recalibration, validation = setup(small_space, kernels)
    archs = population(space)
    scores = Evaluator(supernet, recalibration, validation)(archs)
    for arch, score in zip(archs, scores, strict=True):
        recalibrate_bn(supernet, recalibration, arch)
        assert score == pytest.approx(evaluate(supernet, validation, arch), abs=1e-12)


@pytest.mark.parametrize("metric", ["top5", "balanced"])
def test_scores_by_other_metrics_are_scikit_learns(metric):
    """Of labels of uneven classes, two of which have no image."""
    space, supernet, recalibration, validation = setup()
    validation = [(x, y.clamp(max=7) // 2 * 2) for x, y in validation]
    archs, labels = population(space), torch.cat([y for _, y in validation])
    evaluator = Evaluator(supernet, recalibration, validation, metric=metric)
    for arch, score in zip(archs, evaluator(archs), strict=True):
        recalibrate_bn(supernet, recalibration, arch)
        with torch.no_grad():
            logits = torch.cat([supernet.eval()(x, arch) for x, _ in validation])
        if metric == "top5":
            assert score == pytest.approx(top_k_accuracy_score(labels, logits, k=5, labels=range(10)))
        else:
            recalls = [(logits[labels == c].argmax(1) == c).double().mean().item() for c in labels.unique()]
            assert score == pytest.approx(np.mean(recalls))
        doubt = evaluator.doubt(arch)
        assert doubt["one_shot_images"] == len(labels)
        assert doubt["one_shot_accuracy_interval"][0] <= score <= doubt["one_shot_accuracy_interval"][1]


@pytest.mark.parametrize("workers", [1, 3])
def test_scores_equal_those_of_the_extracted_network_in_plain_pytorch(workers):
    space, supernet, recalibration, validation = setup()
    archs = population(space)
    scores = Evaluator(supernet, recalibration, validation, Threads(workers))(archs)
    for arch, score in zip(archs, scores, strict=True):
        network = supernet.extract(arch)
        recalibrate_bn(network, recalibration)
        assert score == pytest.approx(evaluate(network, validation), abs=1.5 / 32)  # one image may lie on the line


@pytest.mark.parametrize("kernels", ["fused", "eager"])
def test_statistics_of_a_prefix_are_those_of_recalibrate_bn(small_space, kernels):
    space, supernet, recalibration, _ = setup(small_space, kernels)
    archs = population(space, 6)
    model = copy.deepcopy(supernet).eval()
    tree = prefix_tree(model, sorted(set(archs)))
    for bn in batch_norms([model]):
        bn.train()
    with torch.inference_mode():
        for x in recalibration:
            Walk()(tree, x.contiguous(), evaluator_module._pool)
    for arch in archs:
        recalibrate_bn(supernet, recalibration, arch)
        node, path = tree, []
        for spec in layout(space).pick(arch):
            (node,) = (child for (own, _), child in node.children.items() if own == (spec,))
            path.append(node)
        assert node.archs == [arch]
        for module, node in zip(supernet.path(arch), path, strict=True):
            for bn, pool in zip(batch_norms([module]), node.pools, strict=True):
                assert pool.n > 0
                c = len(pool.mean)  # of a layer at a part of its width the first channels
                torch.testing.assert_close(pool.mean.float(), bn.running_mean[:c], rtol=1e-5, atol=1e-6)
                torch.testing.assert_close(pool.var.float(), bn.running_var[:c], rtol=1e-5, atol=1e-6)


def test_modes_of_bn():
    """Against the same network with plain PyTorch's BN: its running averages, or training mode."""
    space, supernet, _, validation = setup()
    archs = population(space, 8)
    for arch in archs:  # leave running averages behind
        supernet(validation[0][0], arch)
    inherited = Evaluator(supernet, [], validation, mode="inherited")(archs)
    batch = Evaluator(supernet, [], validation, mode="batch")(archs)
    for arch, of_supernet, of_batch in zip(archs, inherited, batch, strict=True):
        network = supernet.extract(arch).eval()
        assert of_supernet == pytest.approx(evaluate(network, validation), abs=1.5 / 32)
        for bn in batch_norms([network]):
            bn.train()
        with torch.no_grad():
            hits = sum(int((network(x).argmax(1) == y).sum()) for x, y in validation)
        assert of_batch == pytest.approx(hits / 32, abs=1.5 / 32)
    assert inherited != batch


def test_the_supernet_is_left_as_it_was():
    space, supernet, recalibration, validation = setup()
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    for mode in ("recalibrated", "batch", "inherited"):
        Evaluator(supernet, recalibration, validation, mode=mode)(population(space))
    assert supernet.training
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_workers_do_not_change_scores_or_the_number_of_threads():
    space, supernet, recalibration, validation = setup()
    archs = space.enumerate()[:10]
    threads = torch.get_num_threads()
    one, many = (Evaluator(supernet, recalibration, validation, Threads(workers))(archs) for workers in (1, 4))
    assert one == many
    assert torch.get_num_threads() == threads


def test_groups_hold_every_architecture_once_and_are_cut_where_prefixes_are_short():
    archs = population(tiny_space(), 24)
    for n in (1, 2, 5, 100):
        parts = groups(archs, n)
        assert sorted(arch for part in parts for arch in part) == sorted(archs)
        assert len(parts) == min(n, len(archs))
    assert groups([], 3) == []
    split = [(0, 0, i) for i in range(5)] + [(1, 0, i) for i in range(3)]
    assert groups(split[::-1], 2) == [split[:5], split[5:]]  # four and four would walk the prefix (0, 0) twice


def test_workers_get_several_groups_the_longest_first():
    space, supernet, recalibration, validation = setup()
    archs = sorted(set(population(space, 12)))
    evaluator = Evaluator(supernet, recalibration, validation, Threads(2))
    parts = evaluator.tasks(archs)
    assert len(parts) > 2
    assert sorted(arch for part in parts for arch in part) == archs
    costs = [work(space, part) for part in parts]
    assert costs == sorted(costs, reverse=True)
    assert [work(space, [arch]) for arch in archs] == [flops(space, arch) for arch in archs]
    assert work(space, archs[:2] * 2) == work(space, archs[:2]) <= sum(flops(space, arch) for arch in archs[:2])
    assert len(Evaluator(supernet, recalibration, validation).tasks(archs)) == 1


def test_each_prefix_runs_once():
    space, supernet, recalibration, validation = setup()
    archs = population(space)
    calls = []
    evaluator = Evaluator(supernet, recalibration, validation)
    for module in (m for choices in evaluator.scorer.supernet.layers for m in choices.values()):
        module.register_forward_hook(lambda *_: calls.append(1))
    evaluator(archs)
    prefixes = {arch[:depth] for arch in archs for depth in range(1, len(arch) + 1)}
    assert len(calls) == len(prefixes) * (len(recalibration) + len(validation))
    assert evaluator.runs == 1 + len(prefixes) + len(set(archs))
    assert evaluator.separate_runs == len(set(archs)) * (len(space.genes) + 2)


def test_memory_is_that_of_one_path():
    space, supernet, recalibration, validation = setup()
    archs = space.enumerate()

    def path_bytes(arch):
        x, sizes = max((x for x, _ in validation), key=len), []
        for module in supernet.path(arch):
            y = module(x)
            sizes.append(0 if y is x else y.nbytes)
            x = y
        return sum(sizes)

    evaluator = Evaluator(supernet, recalibration, validation)
    evaluator(archs)
    with torch.no_grad():
        assert evaluator.peak_bytes == max(path_bytes(arch) for arch in archs)
    assert f"{evaluator.peak_bytes / 2**20:.1f} MiB" in evaluator.summary


def test_architectures_that_differ_in_what_does_not_run_score_alike():
    """A width of a block that the depth leaves out."""
    space, supernet, recalibration, validation = setup(spaces.get("timm:resnet18", 3, 32, 10), "eager")
    names = [gene.name for gene in space.genes]
    shallow = [0 if gene.choices[0].op == "depth" else len(gene.choices) - 1 for gene in space.genes]
    narrow = list(shallow)
    narrow[names.index("width layer4.1.conv1")] = 0
    first, second = Evaluator(supernet, recalibration, validation)([tuple(shallow), tuple(narrow)])
    assert first == second


def test_each_architecture_is_scored_once():
    space, supernet, recalibration, validation = setup()
    runs = []

    class Counting(list):
        def __iter__(self):
            runs.append(1)
            return super().__iter__()

    evaluator = Evaluator(supernet, recalibration, Counting(validation))
    a, b, c = space.enumerate()[:3]
    runs.clear()
    first = evaluator([a, b, a])
    assert evaluator([b, a]) == [first[1], first[0]]
    assert first[0] == first[2]
    assert len(runs) == 1
    evaluator([a, c])
    assert len(runs) == 2


@pytest.mark.parametrize(("training", "batch"), [(True, 8), (False, 12)])
def test_out_of_memory_names_an_architecture_and_the_batch(training, batch):
    space, supernet, recalibration, validation = setup()
    archs = sorted(population(space))
    evaluator = Evaluator(supernet, recalibration, validation)

    def exhausted(module, inputs):
        if any(norm.training == training for norm in batch_norms([module])):
            raise torch.OutOfMemoryError("CUDA out of memory")

    evaluator.scorer.supernet.stem.register_forward_pre_hook(exhausted)
    told = refused(evaluator, archs)
    assert f"out of memory in scoring on the path {','.join(map(str, archs[0]))}" in told
    assert f"{batch} images of" in told
    assert "lower the memory" in told


def test_recalibration_that_runs_out_of_memory_is_one_line():
    space, supernet, recalibration, _ = setup()
    arch = population(space)[0]

    def exhausted(module, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")

    supernet.head.register_forward_pre_hook(exhausted)
    told = refused(recalibrate_bn, supernet, recalibration, arch)
    assert f"recalibration on the path {','.join(map(str, arch))}, with 8 images" in told
    assert "fewer images per batch" in told


def test_refusals():
    _, supernet, recalibration, validation = setup()
    with pytest.raises(UserError, match="unknown BN mode 'none': expected one of recalibrated, batch, inherited"):
        Evaluator(supernet, recalibration, validation, mode="none")
    for arguments in ((recalibration, []), ([], validation)):
        with pytest.raises(UserError, match="nothing to score with"):
            Evaluator(supernet, *arguments)


def test_the_batch_fits_the_memory(small_space):
    """Against the bytes that an evaluator counts on its path, of the architectures with the most of them."""
    rng = np.random.default_rng(0)
    archs = [small_space.sample(rng) for _ in range(20)]
    supernet = Supernet(small_space)
    sizes = [images_at_once(small_space, memory) for memory in (0, 2**20, 2**22, 2**24, 2**50)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, LARGEST_BATCH)
    assert images_at_once(small_space, 2**24, workers=4) == images_at_once(small_space, 2**22)
    size = images_at_once(small_space, 2**22)
    x = torch.randn(size, small_space.channels, small_space.resolution, small_space.resolution)
    evaluator = Evaluator(supernet, [], [(x, torch.zeros(size, dtype=torch.long))], mode="inherited")
    evaluator(archs)
    assert evaluator.peak_bytes + x.nbytes <= 2**22 or size == 1
    assert size == LARGEST_BATCH or 2 * size * (evaluator.peak_bytes + x.nbytes) / size > 2**22 / 4  # nor far below


def test_streamed_batches_score_as_lists_of_any_batch(tmp_path):
    space = tiny_space()
    data = sets.open_train("digits", tmp_path, limit=64).val.subset(60, seed=0)
    x = torch.nn.functional.interpolate(next(iter(Batches(data, 60)))[0], 14)
    supernet, recalibration = Supernet(space), [x[:30], x[30:]]
    archs = population(space, 6)

    class Streamed(Batches):
        def __iter__(self):
            return ((torch.nn.functional.interpolate(x, 14), y) for x, y in super().__iter__())

    one = Evaluator(supernet, recalibration, list(Streamed(data, 60)))(archs)
    assert one == Evaluator(supernet, recalibration, Streamed(data, 7), Threads(2))(archs)
