import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from focusnet import devices
from focusnet.devices import (
    computing,
    cpu_has_bf16,
    is_out_of_memory,
    peak_memory_mib,
    resolve_device,
    resolve_precision,
)
from focusnet.errors import FocusNetError

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_auto_takes_the_best_device_there_is(no_gpu, monkeypatch):
    assert resolve_device("auto") == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == MPS
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == CUDA


def test_a_device_by_name(two_gpus):
    assert resolve_device("cpu") == CPU
    assert resolve_device("cuda") == CUDA
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "cuda:2", "cuda:-1", "cuda:x", "cpu:1", "", "mps:0"])
def test_a_device_that_is_not_there_is_refused(two_gpus, name):
    with pytest.raises(FocusNetError) as caught:
        resolve_device(name)
    assert caught.value.code == "E_DEVICE"


def test_absent_gpus_are_refused(no_gpu):
    for name in ("cuda", "cuda:0", "mps"):
        with pytest.raises(FocusNetError, match="E_DEVICE"):
            resolve_device(name)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_precision_on_cuda_follows_the_generation(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert resolve_precision("auto", CUDA) == expected


@pytest.mark.parametrize(("has", "expected"), [(True, "bf16"), (False, "fp32")])
def test_precision_on_the_cpu_follows_the_processor(monkeypatch, has, expected):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("bf16", CPU) == "bf16"


def test_precisions_that_a_device_lacks_are_refused():
    assert resolve_precision("auto", MPS) == "fp32"
    for name, device in (("fp16", CPU), ("bf16", MPS), ("int8", CPU)):
        with pytest.raises(FocusNetError, match="E_PRECISION"):
            resolve_precision(name, device)


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16"])
def test_bf16_is_detected_by_torch_or_else_by_the_kernel(monkeypatch, tmp_path, flag):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: {"avx2": True, flag: True}))
    assert cpu_has_bf16()
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: {"avx2": True, flag: False}))
    assert not cpu_has_bf16()
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    monkeypatch.setattr(devices, "CPU_INFO", tmp_path / "cpuinfo")
    assert not cpu_has_bf16()
    devices.CPU_INFO.write_text(f"flags : fpu avx2 {flag} sse")
    assert cpu_has_bf16()
    devices.CPU_INFO.write_text("flags : fpu avx2 avx512_bf16x")
    assert not cpu_has_bf16()


def test_computing_is_repeatable_and_leaves_the_settings_as_they_were():
    torch.backends.cudnn.benchmark = True
    try:
        with computing(CPU, "bf16"):
            assert torch.is_inference_mode_enabled()
            assert torch.backends.cudnn.deterministic
            assert not torch.backends.cudnn.benchmark
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype == torch.bfloat16
        assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.deterministic
        with computing(CPU, "fp32"):
            assert torch.nn.functional.linear(torch.ones(1, 2), torch.ones(2, 2)).dtype == torch.float32
    finally:
        torch.backends.cudnn.benchmark = False


def test_running_out_of_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_memory_is_kept_in_a_process_of_its_own():
    script = "from focusnet.devices import keep_memory; print(keep_memory())"
    env = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "True"


def test_peak_memory_is_in_mib():
    peak = peak_memory_mib()
    if sys.platform == "win32":
        assert peak is None
    else:
        assert 20 < peak < 100_000
