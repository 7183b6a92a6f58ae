"""Safetensors files, hashed while they are written and trusted only after hashing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from dto.errors import CheckpointError

# https://github.com/huggingface/safetensors: u64 header length, JSON header, then the bytes
_CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
_CHUNK = 16 << 20


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write one safetensors file durably; returns its {"sha256", "bytes"}.

    The library's own writer would need every byte a second time in memory or on disk to hash it.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "xb") as file:
        parts: list[bytes | torch.Tensor] = [_header(tensors), *tensors.values()]
        for part in parts:
            data = memoryview(part) if isinstance(part, bytes) else _bytes(part)
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                digest.update(piece)
                file.write(piece)
            size += len(data)
        file.flush()
        os.fsync(file.fileno())
    return {"sha256": digest.hexdigest(), "bytes": size}


def read_tensors(path: Path, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors of one file, parsed from the very bytes whose hash was compared."""
    data = _checked(path, record)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def why_not(path: Path, record: Mapping[str, Any]) -> str | None:
    """None if the file is as the manifest says, else the reason."""
    digest = hashlib.sha256()
    try:
        size = path.stat().st_size
        if size != record["bytes"]:
            return f"{path.name} has {size} bytes instead of {record['bytes']}"
        with open(path, "rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if digest.hexdigest() != record["sha256"]:
        return f"{path.name} has other content than was saved"
    return None


def _checked(path: Path, record: Mapping[str, Any]) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) != record["bytes"]:
        raise CheckpointError(f"{path} has {len(data)} bytes instead of {record['bytes']}")
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise CheckpointError(f"{path} has other content than was saved")
    return data


def _header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _CODES or tensor.layout != torch.strided:
            kind = f"{tensor.dtype} {tensor.layout}"
            raise CheckpointError(f"{name} is a {kind} tensor, which a checkpoint cannot hold")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to eight bytes
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    view: memoryview = flat.view(torch.uint8).numpy().data
    return view
