import threading
from queue import Queue
from types import SimpleNamespace

import pytest

from vlmlake.ingest import writer as writer_module
from vlmlake.ingest.writer import BackgroundWriter


def test_jobs_run_in_order_in_one_other_thread():
    done = []
    with BackgroundWriter() as writer:
        for number in range(20):
            writer.put(lambda number=number: done.append((number, threading.current_thread().name)))
    assert done == [(number, "vlmlake-writer") for number in range(20)]


def test_a_failed_job_stops_the_pass_and_the_jobs_after_it():
    done = []

    def fail():
        raise OSError("disk full")

    def put_many():
        with BackgroundWriter() as writer:
            writer.put(lambda: done.append(0))
            writer.put(fail)
            for number in range(1, 100):
                writer.put(lambda number=number: done.append(number))

    with pytest.raises(OSError, match="disk full"):
        put_many()
    assert done == [0]


def test_what_was_put_before_the_block_failed_is_still_written():
    done = []

    def fail_after_three():
        with BackgroundWriter() as writer:
            for number in range(3):
                writer.put(lambda number=number: done.append(number))
            raise RuntimeError("model")

    with pytest.raises(RuntimeError, match="model"):
        fail_after_three()
    assert done == [0, 1, 2]


def test_a_slow_writer_makes_the_model_wait():
    gate, queued = threading.Event(), []

    def produce():
        with BackgroundWriter(waiting=2) as writer:
            for number in range(6):
                writer.put(gate.wait)
                queued.append(number)

    producer = threading.Thread(target=produce)
    producer.start()
    producer.join(timeout=0.3)
    assert len(queued) <= 3
    gate.set()
    producer.join(timeout=5)
    assert len(queued) == 6


def test_the_time_that_the_model_waits_for_room_is_told(monkeypatch):
    """Under a clock that moves only where `put` of the queue is called, five seconds at a time."""
    now = [0.0]

    class SlowQueue(Queue):
        def put(self, task):
            now[0] += 5.0
            super().put(task)

    monkeypatch.setattr(writer_module, "Queue", SlowQueue)
    monkeypatch.setattr(writer_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    told = []
    with BackgroundWriter() as writer:
        for _ in range(3):
            told.append(writer.waited)
            writer.put(lambda: None)
    assert [*told, writer.waited] == [0.0, 5.0, 10.0, 20.0]
