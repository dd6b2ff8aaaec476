"""A device has one name, however it was typed; what is none is refused."""

import pytest

from tinyv_cli.devices.names import find_cuda_number, is_cuda, read_device, to_cuda_name, to_kind
from tinyv_cli.errors import UsageError

NO_DEVICES = (
    "tpu,CPU,CUDA,Cuda:1,cuda:,cuda:x,cuda:-1,cuda:+1,cuda:01,cuda:1.0,cuda: 1,cuda:0:0,cuda1,"
    "cuda:٣,xcuda,auto:1,cpu:0"
)


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("cuda", "cuda"),
        ("cuda:0", "cuda"),
        ("cuda:1", "cuda:1"),
        ("cuda:12", "cuda:12"),
    ],
)
def test_a_device_has_one_name(typed, name):
    assert read_device(typed) == name
    assert read_device(name) == name


@pytest.mark.parametrize(
    "typed",
    ["", *NO_DEVICES.split(","), "cuda:1 ", "cuda:1\n"],
)
def test_anything_else_is_refused_with_what_is_allowed(typed):
    with pytest.raises(UsageError) as caught:
        read_device(typed)
    assert caught.value.problem == f"there is no device {typed}"
    assert caught.value.hint.startswith("use `--device` with auto, cpu, cuda or cuda:N")
    assert find_cuda_number(typed) is None


def test_a_gpu_is_told_from_what_is_none():
    assert [find_cuda_number(to_cuda_name(number)) for number in (0, 1, 9)] == [0, 1, 9]
    names = ("cpu", "auto", "cuda", "cuda:1", "toy")
    assert [each for each in names if is_cuda(each)] == ["cuda", "cuda:1"]
    assert [to_kind(each) for each in names] == ["cpu", "auto", "cuda", "cuda", "toy"]
