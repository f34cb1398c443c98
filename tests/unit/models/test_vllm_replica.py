"""Replicas without processes: what is refused before a start, leases, and what a log gives as the reason."""

from __future__ import annotations

import json
import os

import pytest

from stillhouse.models.port import ModelError
from stillhouse.models.vllm.lease import available, short_of_memory
from stillhouse.models.vllm.posting import FAILURES, REFUSED_S, Breaker
from stillhouse.models.vllm.processes import cpu_seconds_of, members, reason_in
from stillhouse.models.vllm.replica_main import Leases, command_of, environment_of
from stillhouse.models.vllm.spec import GIB, ServeSpec, weights_bytes


@pytest.mark.parametrize(
    "name", ["", "..", ".hidden", "a/b", "../../etc", "a\\b", "a b", "a\n", "-x", "a\0", "x" * 200]
)
def test_an_id_that_is_no_plain_name_is_refused(name) -> None:
    with pytest.raises(ModelError, match="no plain name"):
        ServeSpec(name)


def _checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"12345")
    return folder


def test_a_checkpoint_weighs_its_safetensors(tmp_path) -> None:
    assert weights_bytes(_checkpoint(tmp_path / "c")) == 5


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "x.pt", "deep/er/x.pkl", "A.PTH", "modeling.py", "training_args.bin", "x.joblib"]
)
def test_what_may_hold_code_is_refused_by_name(tmp_path, file) -> None:
    path = _checkpoint(tmp_path / "c") / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match="may hold code") as refused:
        weights_bytes(tmp_path / "c")
    assert path.name in str(refused.value)


def test_what_is_no_checkpoint_is_refused(tmp_path) -> None:
    with pytest.raises(ModelError, match=r"no config\.json"):
        weights_bytes(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        weights_bytes(tmp_path)


def test_memory_is_refused_with_numbers() -> None:
    spec = ServeSpec("s", kv_cache_gib=1)
    assert short_of_memory(GIB, spec, {}, 4 * GIB) is None
    why = short_of_memory(GIB, spec, {}, 3 * GIB)
    assert why is not None
    assert "3.8 GiB" in why
    assert "3.0 GiB are free" in why
    assert short_of_memory(GIB, spec, {"dtype": "bfloat16"}, 4 * GIB) is not None, "widened to float32 when loaded"
    assert short_of_memory(GIB, ServeSpec("s", dtype="bfloat16"), {"dtype": "bfloat16"}, 4 * GIB) is None
    assert short_of_memory(GIB, spec, {}, None) is None, "where nobody knows, it is tried"


def test_memory_is_that_of_the_machine_within_the_groups_limit(tmp_path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    group.mkdir()
    assert available(proc, group) is None
    (proc / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2000 kB\n")
    assert available(proc, group) == 2_048_000
    (group / "memory.max").write_text("max\n")
    assert available(proc, group) == 2_048_000
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("900000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 100000\n")
    assert available(proc, group) == 200_000
    assert (available() or 0) > 0


def test_leases_hold_for_as_long_as_they_are_touched(tmp_path) -> None:
    now = [0.0]
    leases = Leases(tmp_path / "leases", 20, clock=lambda: now[0])
    assert leases.held(), "whoever started it has not touched its file yet"
    (tmp_path / "leases").mkdir()
    file = tmp_path / "leases" / "1-1"
    file.touch()
    for now[0] in (10.0, 25.0, 40.0):
        os.utime(file, (now[0], now[0]))
        assert leases.held()
    now[0] = 59.0
    assert leases.held(), "it lingers"
    now[0] = 61.0
    assert not leases.held()
    file.unlink()
    assert not leases.held()


def test_vllm_is_started_by_module_name_offline_and_without_the_checkpoints_sampling(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "here")
    monkeypatch.setenv("TEACHER_API_KEY", "secret")
    monkeypatch.setenv("STILLHOUSE_REDIS__URL", "redis://:secret@host")
    spec = ServeSpec("s-1", dtype="bfloat16", max_model_len=512, max_num_seqs=4, kv_cache_gib=2)
    command = command_of(tmp_path / "python", tmp_path / "c", spec, 4711)
    assert command[1:3] == ["-m", "vllm.entrypoints.openai.api_server"]
    options = dict(zip(command[3::2], command[4::2], strict=False))  # a flag may come last
    assert options["--served-model-name"] == "s-1"
    assert options["--host"] == "127.0.0.1"
    assert (options["--dtype"], options["--max-model-len"], options["--max-num-seqs"]) == ("bfloat16", "512", "4")
    assert (options["--generation-config"], options["--load-format"]) == ("vllm", "safetensors")
    environment = environment_of(spec)
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind", "replicas would wait for the same cores"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert "PYTHONPATH" not in environment
    assert not any("secret" in value for value in environment.values())
    assert environment["PATH"] == os.environ["PATH"]


def test_without_a_compiler_nothing_is_compiled(tmp_path, monkeypatch) -> None:
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    for path, eager in ((tmp_path, False), (tmp_path / "empty", True)):
        monkeypatch.setenv("PATH", str(path))
        assert ("--enforce-eager" in command_of(tmp_path, tmp_path, ServeSpec("s"), 1)) == eager
        assert ("TORCHDYNAMO_DISABLE" in environment_of(ServeSpec("s"))) == eager


def test_the_reason_is_the_last_error_that_says_something(tmp_path) -> None:
    log = tmp_path / "vllm.log"
    assert reason_in(log) == "it said nothing"
    log.write_text(
        "INFO 11-23 23:00:00 [a.py:1] loading\n"
        "(EngineCore pid=7) ERROR 11-23 23:00:01 [core.py:9] ValueError: head size 24 is not supported\n"
        "(APIServer pid=5) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    assert reason_in(log) == "ValueError: head size 24 is not supported"
    log.write_text("one\ntwo\n\n")
    assert reason_in(log) == "two"


def test_our_own_time_and_session_are_found() -> None:
    assert cpu_seconds_of(os.getpid()) > 0
    assert os.getpid() in members(os.getsid(0))
    assert cpu_seconds_of(2**22 + 1) == 0


def test_a_student_that_keeps_failing_is_left_alone_then_tried_once() -> None:
    now = [0.0]
    breaker = Breaker(clock=lambda: now[0])
    for _ in range(FAILURES):
        breaker.enter("s")
        breaker.failed()
    with pytest.raises(ModelError, match="5 times in a row"):
        breaker.enter("s")
    now[0] = REFUSED_S + 0.1
    breaker.enter("s")
    with pytest.raises(ModelError):
        breaker.enter("s")  # one trial at a time
    breaker.left()
    breaker.enter("s")
    breaker.failed()
    with pytest.raises(ModelError):
        breaker.enter("s")
    now[0] *= 3
    breaker.enter("s")
    breaker.well()
    breaker.enter("s")
    breaker.enter("s")


def test_a_state_file_of_another_version_is_no_state(tmp_path) -> None:
    from stillhouse.models.vllm.lease import ReplicaLease

    lease = ReplicaLease(tmp_path / "c", tmp_path, ServeSpec("s"))
    assert lease.base_url() is None
    (tmp_path / "replicas" / "s").mkdir(parents=True)
    (tmp_path / "replicas" / "s" / "replica.json").write_text(json.dumps({"other": 1}))
    assert lease.state() is None
    assert lease.base_url() is None
