"""Well-known datasheet facts, each with the document that states it, against the catalogue."""

import pytest

from perfmodel.hardware import load_device, load_system

T, G = 1e12, 1e9

DEVICE_FACTS = [
    # device, quantity, value in SI, document
    ("v100-sxm", "fp16", 125 * T, "NVIDIA V100 datasheet"),
    ("v100-sxm", "memory_bandwidth", 900 * G, "NVIDIA V100 datasheet"),
    ("a100-sxm", "bf16", 312 * T, "NVIDIA A100 datasheet"),
    ("a100-sxm", "int8", 624 * T, "NVIDIA A100 datasheet"),
    ("a100-sxm", "fp64", 19.5 * T, "NVIDIA A100 datasheet, tensor cores"),
    ("a100-sxm", "memory_bandwidth", 2039 * G, "NVIDIA A100 datasheet"),
    ("a100-sxm", "cores", 108, "NVIDIA A100 white paper"),
    ("a100-sxm-40gb", "memory_bandwidth", 1555 * G, "NVIDIA A100 datasheet"),
    ("a100-pcie", "memory_bandwidth", 1935 * G, "NVIDIA A100 datasheet"),
    ("h100-sxm", "bf16", 989 * T, "NVIDIA H100 product page, 1979 with sparsity"),
    ("h100-sxm", "fp8", 1979 * T, "NVIDIA H100 product page, 3958 with sparsity"),
    ("h100-sxm", "memory_bandwidth", 3.35 * T, "NVIDIA H100 product page"),
    ("h100-sxm", "power_w", 700, "NVIDIA H100 product page"),
    ("h100-sxm", "cores", 132, "NVIDIA H100 white paper"),
    ("h100-pcie", "cores", 114, "NVIDIA H100 white paper"),
    ("h200-sxm", "memory_bandwidth", 4.8 * T, "NVIDIA H200 product page"),
    ("h20-sxm", "bf16", 148 * T, "distributors' H20 data"),
    ("b200-sxm", "bf16", 2250 * T, "NVIDIA HGX page, 36 PFLOP/s with sparsity for eight"),
    ("b200-sxm", "fp4", 9000 * T, "NVIDIA HGX page, 144 PFLOP/s with sparsity for eight"),
    ("b200-sxm", "cores", 148, "CUDA device properties"),
    ("b300-sxm", "cores", 148, "CUDA device properties"),
    ("gb200", "fp8", 5000 * T, "NVIDIA GB200 NVL72 page, 720 PFLOP/s with sparsity for 72"),
    ("gb200", "cores", 152, "CUDA device properties"),
    ("gb300", "fp4", 15000 * T, "NVIDIA, Inside NVIDIA Blackwell Ultra"),
    ("gb300", "power_w", 1400, "nvidia-smi"),
    ("l40s", "fp8", 733 * T, "NVIDIA L40S datasheet"),
    ("l4", "memory_bandwidth", 300 * G, "NVIDIA L4 datasheet"),
    ("rtx-4090", "bf16", 165.2 * T, "NVIDIA Ada white paper, fp32 accumulation"),
    ("rtx-5090", "memory_bandwidth", 1792 * G, "NVIDIA RTX Blackwell white paper"),
    ("mi250x", "bf16", 383 * T / 2, "AMD MI250X specifications, one of two dies"),
    ("mi300x", "bf16", 1307.4 * T, "AMD MI300X specifications"),
    ("mi300x", "memory_bandwidth", 5.3 * T, "AMD MI300X specifications"),
    ("mi300x", "cores", 304, "ROCm GPU specifications"),
    ("mi325x", "memory_bandwidth", 6 * T, "AMD MI325X specifications"),
    ("mi355x", "fp4", 10.066e15, "AMD MI355X specifications, 10.1 PFLOP/s"),
    ("tpu-v4", "bf16", 275 * T, "Google Cloud TPU v4"),
    ("tpu-v5e", "bf16", 197 * T, "Google Cloud TPU v5e"),
    ("tpu-v5p", "bf16", 459 * T, "Google Cloud TPU v5p"),
    ("tpu-v5p", "memory_bandwidth", 2765 * G, "Google Cloud TPU v5p"),
    ("tpu-v6e", "bf16", 918 * T, "Google Cloud TPU v6e"),
    ("tpu-ironwood", "fp8", 4614 * T, "Google Cloud TPU7x"),
    ("trainium2", "bf16", 667 * T, "AWS Neuron documentation"),
    ("gaudi3", "memory_bandwidth", 3.7 * T, "Intel Gaudi 3 white paper"),
    ("ascend-910c", "memory_bandwidth", 1.6 * T, "arXiv 2506.12708, section 3.2, one die"),
]

SUSTAINED_FACTS = [
    # device, rate of a large matrix product or of a large copy, document
    ("mi300x", "bf16", 668.4 * T, "ml-engineering, maximum achievable matrix-product FLOP/s, ROCm 6.3"),
    ("mi325x", "bf16", 784.9 * T, "ml-engineering, maximum achievable matrix-product FLOP/s"),
    ("mi355x", "bf16", 1565 * T, "ml-engineering, maximum achievable matrix-product FLOP/s"),
    ("gaudi2", "bf16", 418.7 * T, "ml-engineering, maximum achievable matrix-product FLOP/s"),
    ("gaudi3", "bf16", 1243 * T, "ml-engineering, maximum achievable matrix-product FLOP/s"),
    ("mi300x", "bandwidth", 4.33 * T, "ZAYA1, arXiv 2511.17127"),
]

FABRIC_FACTS = [
    # system, tier, devices, one-way bandwidth per device, document
    ("dgx-v100", "nvlink", 8, 150 * G, "DGX-1 white paper: six links of 25 GB/s"),
    ("hgx-a100", "nvlink", 8, 300 * G, "DGX A100 datasheet: 600 GB/s both ways"),
    ("hgx-a100", "infiniband", 16000, 25 * G, "DGX A100 datasheet: 200 Gbit/s per GPU"),
    ("hgx-h100", "nvlink", 8, 450 * G, "DGX H100 user guide: 900 GB/s both ways"),
    ("hgx-h100", "infiniband", 65536, 50 * G, "DGX H100 user guide: 400 Gbit/s per GPU"),
    ("hgx-h800", "nvlink", 8, 200 * G, "H800 datasheet: 400 GB/s both ways"),
    ("hgx-b200", "nvlink", 8, 900 * G, "DGX B200 datasheet: 14.4 TB/s for eight, both ways"),
    ("hgx-b300", "infiniband", 10368, 100 * G, "DGX B300 datasheet: 800 Gbit/s per GPU"),
    ("gb200-nvl72", "nvlink", 72, 900 * G, "GB200 NVL72 page: 130 TB/s for 72, both ways"),
    ("mi300x-8", "xgmi", 8, 448 * G, "AMD MI300X platform: 896 GB/s both ways"),
    ("mi355x-8", "xgmi", 8, 535.5 * G, "AMD MI355X specifications: seven links of 153 GB/s both ways"),
    ("tpu-v5p-pod", "ici", 8960, 600 * G, "Google Cloud TPU v5p: 1200 GB/s both ways"),
    ("tpu-v6e-pod", "ici", 256, 400 * G, "Google Cloud TPU v6e: 800 GB/s both ways"),
    ("gaudi3-8", "scale-up", 8, 525 * G, "Gaudi documentation: 21 ports of 200 Gbit/s"),
    ("cloudmatrix384", "ub", 768, 196 * G, "arXiv 2506.12708, section 3.2: 7 x 224 Gbit/s per die"),
]

# Decimal gigabytes on the box, and the share of them that a framework may see.
MARKETED = {
    "a100-sxm": 80,
    "h100-sxm": 80,
    "h200-sxm": 141,
    "b200-sxm": 180,
    "b300-sxm": 288,
    "gb200": 186,
    "gb300": 288,
    "l40s": 48,
    "rtx-4090": 24,
    "rtx-5090": 32,
    "rtx-pro-6000": 96,
    "mi300x": 192,
    "mi325x": 256,
    "mi355x": 288,
}


def quantity(device, name):
    return device.peak_flops[name] if name in device.peak_flops else getattr(device, name)


@pytest.mark.parametrize(("name", "what", "value", "document"), DEVICE_FACTS)
def test_device(name, what, value, document):
    assert quantity(load_device(name), what) == pytest.approx(value, rel=1e-9), document


@pytest.mark.parametrize(("name", "tier", "devices", "bandwidth", "document"), FABRIC_FACTS)
def test_fabric(name, tier, devices, bandwidth, document):
    found = next(t for t in load_system(name).tiers if t.name == tier)
    assert found.devices == devices, document
    assert found.bandwidth == pytest.approx(bandwidth), document


@pytest.mark.parametrize("name", MARKETED)
def test_usable_memory_is_near_what_is_sold(name):
    # Makers sell GiB as GB or take out what ECC and firmware keep: between 92 % and 108 % of decimal gigabytes.
    assert 0.92 < load_device(name).memory_bytes / (MARKETED[name] * 1e9) < 1.08


@pytest.mark.parametrize(
    ("name", "tensor_flop_per_clock_and_core", "clock"),
    [
        ("v100-sxm", 1024, 1.53e9),
        ("a100-sxm", 2048, 1.41e9),
        ("h100-sxm", 4096, 1.83e9),
        ("mi300x", 2048, 2.1e9),
        ("mi355x", 4096, 2.4e9),
    ],
)
def test_sixteen_bit_peaks_follow_from_cores_and_clock(name, tensor_flop_per_clock_and_core, clock):
    device = load_device(name)
    assert device.clock_hz == clock
    derived = tensor_flop_per_clock_and_core * device.cores * clock
    assert device.peak_flops.get("bf16", device.peak_flops["fp16"]) == pytest.approx(derived, rel=3e-3)


def test_parts_that_were_cut():
    assert load_device("h800-sxm").peak("fp64") < load_device("h100-sxm").peak("fp64") / 30
    assert load_device("b300-sxm").peak("int8") < load_device("b200-sxm").peak("int8") / 25
    assert not load_device("a100-sxm").supports("fp8")
    assert not load_device("v100-sxm").supports("bf16")
    assert not load_device("rtx-4090").supports("fp4")
    assert not load_device("mi355x").supports("tf32")


@pytest.mark.parametrize(("device", "rate", "value", "document"), SUSTAINED_FACTS)
def test_a_device_reaches_the_published_rate(device: str, rate: str, value: float, document: str) -> None:
    found = load_device(device)
    reached = found.sustained_bandwidth if rate == "bandwidth" else found.sustained_flops[rate]
    assert reached == pytest.approx(value), document
