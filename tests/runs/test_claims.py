"""Claims share work out among workers that do not know of each other, and never keep a shard from being done."""

import pytest
from builders import fresh_random

from evalkit.runs import claims as claims_module
from evalkit.runs.claims import Claims


def test_nobody_takes_what_another_has_claimed_until_nothing_else_is_left(tmp_path):
    done: set[int] = set()
    missing = list(range(6))
    with Claims(tmp_path) as one, Claims(tmp_path) as two:
        first, second = one.take(missing, done.__contains__), two.take(missing, done.__contains__, start=0.5)
        assert [next(first), next(second), next(second), next(first)] == [0, 3, 4, 1]
        done |= {0, 3}
        one.release(0)
        assert list(second) == [5, 2, 1]  # 0 is done; 1 is the other's, who may be dead
    assert not list(tmp_path.iterdir())


def test_workers_that_join_and_die_at_random_leave_nothing_undone(tmp_path):
    rng = fresh_random()
    for trial in range(30):
        folder, missing, done, times = tmp_path / str(trial), list(range(rng.randint(0, 12))), set(), []
        workers = []
        while len(done) < len(missing):
            if not workers or rng.random() < 0.2:
                workers.append(Claims(folder).take(missing, done.__contains__, start=rng.random()))
            worker = rng.choice(workers)
            if rng.random() < 0.1:
                workers.remove(worker)  # dies with its claims
                continue
            shard = next(worker, None)
            if shard is None:
                workers.remove(worker)
            else:
                times.append(shard)
                done.add(shard)
        assert done == set(missing)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_who_stops_in_order_withdraws_its_claims(tmp_path, error):
    with pytest.raises(error), Claims(tmp_path) as claims:
        assert next(claims.take([7], lambda _: False)) == 7
        assert [file.name for file in tmp_path.iterdir()] == ["shard-00007"]
        raise error
    assert not list(tmp_path.iterdir())


def test_interrupted_in_the_middle_it_withdraws_all_the_same(tmp_path, monkeypatch):
    made = claims_module.create

    def after_it_was_made(*arguments):
        made(*arguments)
        raise KeyboardInterrupt

    def before_it_is_gone(*_, **__):
        monkeypatch.undo()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Claims(tmp_path) as claims:
        monkeypatch.setattr(claims_module, "create", after_it_was_made)
        next(claims.take([0], lambda shard: False))
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt), Claims(tmp_path) as claims:
        next(claims.take([0], lambda shard: False))
        monkeypatch.setattr(type(tmp_path), "unlink", before_it_is_gone)
        claims.release(0)
    assert not list(tmp_path.iterdir())


def test_in_order_nobody_runs_ahead_of_a_shard_that_is_missing(tmp_path):
    """Where the first shard's worker has died, another computes it before those far behind."""
    done: set[int] = set()
    missing = list(range(10))
    with Claims(tmp_path) as dead, Claims(tmp_path) as alive:
        assert next(dead.in_order(missing, done.__contains__, ahead=3)) == 0
        order = alive.in_order(missing, done.__contains__, ahead=3)
        assert [next(order), next(order), next(order)] == [1, 2, 0]
        done |= {0, 1, 2}
        rest = []
        for shard in order:
            rest.append(shard)
            done.add(shard)
        assert rest == [3, 4, 5, 6, 7, 8, 9]
