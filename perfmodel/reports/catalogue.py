"""Sheets of the catalogues: devices, systems and models as text, every number with its source."""

from perfmodel.errors import UnknownNameError
from perfmodel.estimate.links import links_of_group
from perfmodel.hardware.catalog import list_devices, list_systems, load_device, load_system
from perfmodel.hardware.device import Device, Provenance
from perfmodel.hardware.fabric import System
from perfmodel.layers.base import Shard
from perfmodel.models.catalog import list_models, load_model
from perfmodel.parallel.groups import RankGroup
from perfmodel.reports.tables import plain_table
from perfmodel.units import format_bandwidth, format_compute, format_size, format_time


def hardware_tables(profiles: str | None = None) -> str:
    """List devices and systems.

    Parameters
    ----------
    profiles : str, optional
        Directory that is searched as well.

    Returns
    -------
    str
        Two tables.
    """
    devices = [load_device(name, profiles) for name in list_devices(profiles)]
    systems = [load_system(name, profiles) for name in list_systems(profiles)]
    first = plain_table(
        ["device", "architecture", "16-bit peak", "8-bit peak", "memory", "bandwidth"],
        [
            [
                d.id,
                d.architecture,
                _rate(d, "bf16", "fp16"),
                _rate(d, "fp8", "int8"),
                format_size(d.memory_bytes, binary=True),
                format_bandwidth(d.memory_bandwidth),
            ]
            for d in devices
        ],
    )
    second = plain_table(
        ["system", "device", "tiers (devices at bandwidth per device, one way)"],
        [
            [s.id, s.device.id, ", ".join(f"{t.name} {t.devices} at {format_bandwidth(t.bandwidth)}" for t in s.tiers)]
            for s in systems
        ],
    )
    return f"{first}\n\n{second}"


def _rate(device: Device, *formats: str) -> str:
    found = next((f for f in formats if device.supports(f)), None)
    return format_compute(device.peak_flops[found]) if found else "-"


def hardware_sheet(name: str, profiles: str | None = None) -> str:
    """Show every number of a device or a system with its source.

    Parameters
    ----------
    name : str
        Device or system.
    profiles : str, optional
        Directory that is searched first.

    Returns
    -------
    str
        One line per number.

    Raises
    ------
    UnknownNameError
        If neither a device nor a system has that name.
    """
    try:
        system = load_system(name, profiles)
    except UnknownNameError:
        try:
            device = load_device(name, profiles)
        except UnknownNameError:
            known = (*list_systems(profiles), *list_devices(profiles))
            raise UnknownNameError("device or system", name, known, "perfmodel hardware list") from None
        return f"{device.id}: {device.name} ({device.vendor}, {device.architecture})\n{_sources(device.provenance)}"
    hosts = f", {system.host_cpu} hosts" if system.host_cpu else ""
    head = f"{system.id}: {system.name}, made of {system.device.id}{hosts}"
    return f"{head}\n\n{_tiers(system)}\n\n{_groups(system)}\n\n{_sources(system.provenance)}"


def _tiers(system: System) -> str:
    rows = [
        [
            tier.name + (" (scale-up domain)" if tier is system.scale_up and len(system.tiers) > 1 else ""),
            f"{tier.devices:,}",
            tier.topology + (f" {' x '.join(map(str, tier.shape))}" if tier.shape else ""),
            format_bandwidth(tier.bandwidth),
            format_bandwidth(tier.link_bandwidth) if tier.link_bandwidth else "-",
            format_time(tier.latency_s),
            f"{tier.oversubscription:g}",
            str(tier.planes),
            "yes" if tier.in_network_reduction else "no",
        ]
        for tier in system.tiers
    ]
    head = ["tier", "devices", "topology", "per device", "per link", "latency", "oversubscribed", "planes", "reduces"]
    return plain_table(head, rows)


def _groups(system: System) -> str:
    """What neighbouring devices get of the fabric, by how many they are."""
    sizes = [2**power for power in range(1, 11) if 2**power <= system.max_devices]
    rows = []
    for ranks in sizes:
        links = links_of_group(system, RankGroup(float(ranks), 1.0))
        around, across = links.exact(), links.exact("all_to_all")
        spanned = [i for i, parts in enumerate(links.placement.levels) if float(parts) > 1]
        outer = spanned[-1]
        rows.append(
            [
                f"{ranks:,}",
                " x ".join(f"{float(links.placement.levels[i]):.0f} {system.tiers[i].name}" for i in spanned),
                format_bandwidth(float(around[outer])),
                format_bandwidth(float(across[outer])),
                format_time(system.tiers[outer].latency_s),
            ]
        )
    return plain_table(["neighbours", "lie on", "ring, outermost", "all-to-all, outermost", "latency"], rows)


def _sources(rows: tuple[Provenance, ...]) -> str:
    return plain_table(
        ["number", "value", "basis", "source"],
        [[r.key, r.text, r.basis, f"{r.source}, {r.date}" + (f" ({r.note})" if r.note else "")] for r in rows],
    )


def model_table() -> str:
    """List the models that ship with the package.

    Returns
    -------
    str
        One line per model.
    """
    rows = []
    for name in list_models():
        spec = load_model(name)
        rows.append([spec.id, _billions(spec.parameters()), _billions(spec.active_parameters()), str(spec.layers)])
    return plain_table(["model", "parameters", "active", "layers"], rows)


def _billions(count: float) -> str:
    return f"{count / 1e9:,.2f}B"


def model_sheet(name: str) -> str:
    """Show one model.

    Parameters
    ----------
    name : str
        Built-in name, or the path of a config.json.

    Returns
    -------
    str
        Parameters, blocks and cache.
    """
    spec = load_model(name)
    per_token = [float(spec.cache_bytes(c, Shard(), spec.weights)) for c in (4096.0, 4097.0)]
    lines = [
        f"{spec.id} ({spec.family})",
        f"  parameters        {_billions(spec.parameters())}, {_billions(spec.active_parameters())} active per token",
        f"  weights           {format_size(float(spec.weight_bytes(Shard(), spec.weights)), binary=True)}"
        f" as {spec.weights.linear} (experts {spec.weights.experts})",
        f"  hidden, vocab     {spec.hidden:,}, {spec.vocab:,}",
        f"  longest context   {spec.max_context:,}" if spec.max_context else "  longest context   not stated",
        f"  cache             {format_size(per_token[1] - per_token[0], binary=True)} per token at 4,096 tokens,"
        f" {format_size(per_token[0], binary=True)} per request of that length",
        "  layers            " + ", ".join(f"{count} x {block.name}" for block, count in spec.blocks),
    ]
    for label, items in (("also known as", spec.aliases), ("notes", spec.notes), ("source", (spec.source,))):
        if any(items):
            lines.append(f"  {label:17s} {'; '.join(items)}")
    return "\n".join(lines)
