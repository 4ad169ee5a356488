"""The seed model: a small Llama, started with the wiring that copying needs.

Small models spend most of a short training waiting for induction heads ("In-context Learning and Induction Heads",
Olsson et al., 2022). We draw the first two layers' attention so that it already has their form ("Mimetic Initialization
of Self-Attention Layers", Trockman & Kolter, 2023); everything stays trainable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.settings import Strict

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


class Shape(Strict):
    """Sizes of the Llama; its embeddings are tied."""

    vocab_size: int = 4096
    layers: int = 5
    width: int = 256
    heads: int = 4
    """Width divided by heads has to be a head size that vLLM's CPU attention knows (32, 64, 80, ...)."""
    inner: int = 640
    max_positions: int = 4096
    rope_theta: float = 50000.0
    copy_start: bool = True
    """Draw the first two layers so that they look back and copy from the first step."""


def build(shape: Shape, seed: int) -> LlamaForCausalLM:
    """A fresh model, float32, the same for the same seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.width // shape.heads,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        tie_word_embeddings=True,
        initializer_range=0.03,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        # Residual writers start smaller with depth, as in GPT-2, so that the embedding dominates at first.
        layer.self_attn.o_proj.weight.data.mul_((2 * shape.layers) ** -0.5)
        layer.mlp.down_proj.weight.data.mul_((2 * shape.layers) ** -0.5)
    if shape.copy_start:
        with torch.no_grad():
            look_back(model)
    return model


def look_back(model: LlamaForCausalLM) -> None:
    """Wire heads: layer 0 carries the token one and two places back; layer 1 finds where those tokens stood and copies.

    Heads of layer 1 match (what came before there) with (what stands here): after "blue", attend to what once followed
    "blue". A space stands between words, so one head matches two tokens back with one token back.
    """
    import torch

    config: Any = model.config
    width, heads, head = config.hidden_size, config.num_attention_heads, config.head_dim
    half = head // 2
    embedding = model.model.embed_tokens.weight
    embedding[:, 0] = embedding.std() * 3  # a constant that lets a head ask for a distance whatever the tokens are
    basis = torch.linalg.qr(torch.randn(width, width))[0]
    basis[:, 0] = 0
    slow = torch.cat([torch.arange(half // 3, half), torch.arange(half // 3, half) + half])
    content = basis[: len(slow)]
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)

    first, second = (model.model.layers[i].self_attn for i in (0, 1))
    carried = []
    for index, distance in enumerate((1, 2)):
        rows = slice(index * head, (index + 1) * head)
        fast = torch.arange(6)
        q, k = torch.zeros(head), torch.zeros(head)
        q[fast] = 2.0
        # Keys one turn of the rotary clock ahead: the score q.R(n - m)k peaks at n = m - distance.
        k[fast], k[fast + half] = (
            2.0 * torch.cos(frequencies[fast] * distance),
            2.0 * torch.sin(frequencies[fast] * distance),
        )
        first.q_proj.weight[rows], first.k_proj.weight[rows] = 0.0, 0.0
        first.q_proj.weight[rows, 0], first.k_proj.weight[rows, 0] = q, k
        into = torch.linalg.qr(torch.randn(width, len(slow)))[0]
        into[0] = 0
        first.v_proj.weight[index * head : index * head + len(slow)] = content
        first.o_proj.weight[:, index * head : index * head + len(slow)] = into * 0.03
        carried.append(into.T)
    for index, (key, query) in enumerate(((carried[0], content), (carried[1], carried[0]))):
        for matrix, read in ((second.k_proj.weight, key), (second.q_proj.weight, query)):
            block = torch.zeros(head, width)
            block[slow] = read * 1.6
            matrix[index * head : (index + 1) * head] = block
        copied = torch.linalg.qr(torch.randn(width, head))[0].T
        copied[:, 0] = 0
        second.v_proj.weight[index * head : (index + 1) * head] = copied
        second.o_proj.weight[:, index * head : (index + 1) * head] = copied.T * 0.1
    assert heads >= 2
