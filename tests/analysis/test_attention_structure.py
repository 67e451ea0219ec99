import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats
from sklearn.cluster import DBSCAN

from vlmlake.analysis.attention.clusters import Grids, components, dbscan_clusters
from vlmlake.analysis.attention.structure import METRICS, entropy, normalised, structure

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def ragged_maps(seed, count=12, largest=(9, 8), coarse=False):
    """Random maps on grids of different sizes, each behind its own number of places that are no patch."""
    rng = np.random.default_rng(seed)
    width = largest[0] * largest[1] + 3
    maps, row, column = np.zeros((count, width), np.float32), *np.full((2, count, width), -1)
    for number in range(count):
        high, wide = rng.integers(1, largest[0] + 1), rng.integers(2, largest[1] + 1)
        first = rng.integers(0, 4)
        places = slice(first, first + high * wide)
        weights = rng.integers(0, 4, high * wide) + 0.0 if coarse else rng.exponential(size=high * wide) ** 2
        weights[rng.integers(high * wide)] += 1
        maps[number, places] = weights / weights.sum()
        row[number, places], column[number, places] = np.divmod(np.arange(high * wide), wide)
    return maps, Grids.of(row, column, row >= 0), row, column


def plain(weights, row, column):
    """Every metric of one map by its definition, from the libraries that are known for it."""
    size = len(weights)
    weights = weights.astype(np.float64)
    shares = weights / weights.sum()
    ordered = np.sort(shares)[::-1]
    chosen = weights >= np.percentile(weights, 90)
    found = DBSCAN(eps=1.5, min_samples=3).fit(np.stack([row, column], axis=1)[chosen]).labels_
    grid = np.zeros((row.max() + 1, column.max() + 1), bool)
    fewest = int((np.cumsum(ordered) < 0.3).sum()) + 1
    strongest = np.argsort(-weights, kind="stable")[:fewest]
    grid[row[strongest], column[strongest]] = True
    difference = np.abs(shares[:, None] - shares).sum()
    return {
        "entropy": stats.entropy(weights),
        "entropy_normalised": stats.entropy(weights) / np.log(size),
        "clusters_dbscan_p90": len(set(found) - {-1}),
        "clusters_components_mass30": ndimage.label(grid, np.ones((3, 3)))[1],
        "mass_top10": ordered[: max(1, int(0.1 * size))].sum(),
        "mass_top30": ordered[: max(1, int(0.3 * size))].sum(),
        "gini": difference / (2 * size * shares.sum()),
    }


@quick
@given(seed=seeds)
def test_every_number_of_ragged_maps_is_the_plain_one_of_each_map_alone(seed):
    maps, grids, row, column = ragged_maps(seed)
    found = structure(maps, grids)
    for number, weights in enumerate(maps):
        there = row[number] >= 0
        wanted = plain(weights[there], row[number][there], column[number][there])
        np.testing.assert_allclose(found[:, number], [wanted[name] for name in METRICS], rtol=2e-5, atol=2e-6)


@quick
@given(seed=seeds)
def test_ties_choose_the_same_patches_as_the_plain_definitions(seed):
    maps, grids, row, column = ragged_maps(seed, coarse=True)
    found = dict(zip(METRICS, structure(maps, grids), strict=True))
    for number, weights in enumerate(maps):
        there = row[number] >= 0
        wanted = plain(weights[there], row[number][there], column[number][there])
        assert found["clusters_dbscan_p90"][number] == wanted["clusters_dbscan_p90"]
        # a sum of float32 shares may reach 30 % one patch early or late: compare where it is not that close
        held = np.cumsum(np.sort(weights[there].astype(float))[::-1]) / weights.sum(dtype=float)
        if np.abs(held - 0.3).min() > 1e-6:
            assert found["clusters_components_mass30"][number] == wanted["clusters_components_mass30"]


@quick
@given(seed=seeds, share=st.floats(0.02, 0.9), shape=st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_cluster_counts_are_those_of_each_grid_alone(seed, share, shape):
    chosen = np.random.default_rng(seed).random((20, *shape)) < share
    touching = [ndimage.label(one, np.ones((3, 3)))[1] for one in chosen]
    np.testing.assert_array_equal(components(chosen), touching)
    counts = []
    for one in chosen:
        cells = np.argwhere(one)
        labels = DBSCAN(eps=1.5, min_samples=3).fit(cells).labels_ if len(cells) else []
        counts.append(len(set(labels) - {-1}))
    np.testing.assert_array_equal(dbscan_clusters(chosen), counts)


def test_no_choice_has_no_cluster():
    assert (components(np.zeros((3, 4, 5), bool)) == 0).all()
    assert (dbscan_clusters(np.zeros((3, 4, 5), bool)) == 0).all()


@quick
@given(seed=seeds)
def test_entropy_of_raw_weights_is_scipys_of_their_shares(seed):
    rng = np.random.default_rng(seed)
    weights = (rng.exponential(size=(3, 4, 50)) * (rng.random((3, 4, 50)) < 0.8)).astype(np.float32) / 300
    found = entropy(weights, weights.sum(-1))
    np.testing.assert_allclose(found, stats.entropy(weights.astype(float), axis=-1), rtol=2e-5)


def test_entropy_is_zero_for_one_patch_and_one_for_a_uniform_map():
    maps = np.zeros((2, 576), np.float32)
    maps[0, 7], maps[1] = 1, 1 / 576
    shares = normalised(entropy(maps, maps.sum(1)), np.array([576, 576]))
    np.testing.assert_allclose(shares, [0, 1], atol=1e-6)


def test_float16s_smallest_weight_still_counts():
    weights = np.full((1, 4), np.float32(np.finfo(np.float16).smallest_subnormal))
    np.testing.assert_allclose(entropy(weights, weights.sum(1)), np.log(4), rtol=1e-6)


def test_a_uniform_map_is_equal_and_one_patch_is_not():
    row, column = np.divmod(np.arange(100), 10)
    maps = np.zeros((2, 100), np.float32)
    maps[0], maps[1, 5] = 0.01, 1
    grids = Grids.of(*np.broadcast_to(np.stack([row, column])[:, None], (2, 2, 100)), np.ones((2, 100), bool))
    found = dict(zip(METRICS, structure(maps, grids), strict=True))
    np.testing.assert_allclose(found["gini"], [0, 0.99], atol=1e-6)
    np.testing.assert_allclose(found["mass_top10"], [0.1, 1], atol=1e-6)
    np.testing.assert_allclose(found["mass_top30"], [0.3, 1], atol=1e-6)
    np.testing.assert_array_equal(found["clusters_components_mass30"], [1, 1])
