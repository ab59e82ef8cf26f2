"""FlexiCodec-TTS against upstream's own outputs: ids and durations exactly, floats to the goldens' tolerances."""

import re
import shutil

import pytest
import torch

from flexicodec.models.tts.ar import ARBatch, duration_loss, token_loss
from flexicodec.models.tts.config import ARLossConfig
from flexicodec.models.tts.convert_upstream import AR_NAMES, FLOW_NAMES, upstream_name
from flexicodec.models.tts.flow_matching import time_sinusoids
from flexicodec.models.tts.flow_sampling import FlowSamplingConfig, sample
from flexicodec.models.tts.generation import GenerationConfig, generate, generate_steps
from flexicodec.models.tts.mel import log_mel, num_mel_frames, resample_sinc
from flexicodec.models.tts.sampling import GREEDY
from flexicodec.models.tts.text import REWRITTEN, EspeakFrontend, encode_rewritten, rewrite
from flexicodec.models.tts.token_decoder import TokenDecoder, VoicePrompt
from flexicodec.nn.mel_filters import slaney_mel_filters

FLOATS, SAMPLED, LOSSES, LARGE_LOSSES = 1e-4, 1e-3, 1e-5, 1e-3  # atol
AUDIO, CLIPPED_AUDIO = 1e-5, 1e-3
LARGE = 10.0  # losses above are sums


def assert_near(ours, theirs, tolerance=FLOATS):
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def assert_loss(ours, theirs):
    assert float(ours.detach()) == pytest.approx(theirs, abs=LARGE_LOSSES if abs(theirs) > LARGE else LOSSES)


def assert_gradients(model, names, recorded, norms):
    """Compare some gradients, and the norms of all."""
    gradients = {upstream_name(name, names): weight.grad for name, weight in model.named_parameters()}
    for name, expected in recorded.items():
        assert_near(gradients[name], expected)
    for name, expected in norms.items():
        size = 0.0 if gradients[name] is None else float(gradients[name].norm())
        assert size == pytest.approx(expected, rel=1e-4, abs=1e-5), name


# ---------------------------------------------------------------------------------------------------- text to tokens


def batch_of(case, rows=slice(None), rate="recorded"):
    """The recorded batch, or some rows of it without padding that they do not need."""
    names = ("text_token", "text_token_len", "speech_token", "speech_token_len", "duration")
    text, text_lengths, tokens, token_lengths, durations = (case.tensors[f"in/{name}"][rows].long() for name in names)
    longest_text, longest = int(text_lengths.max()), int(token_lengths.max())
    rate = case.held["rate"] if rate == "recorded" else rate
    return ARBatch(
        text[:, :longest_text], text_lengths, tokens[:, :longest], token_lengths, durations[:, :longest], rate
    )


def lm_outputs(case, batch):
    """Padded inputs of the language model, the output of its first layer and of its last norm."""
    first_layer = []
    hook = case.model.lm.layers[0].register_forward_hook(lambda *call: first_layer.append(call[2]))
    x = torch.nn.utils.rnn.pad_sequence(case.model.embed(batch), batch_first=True, padding_value=-1.0)
    hidden = case.model.lm(x)
    hook.remove()
    return x, first_layer[0], hidden


def rows_of_tokens(batch, row):
    first = 3 + int(batch.text_lengths[row])
    return slice(first, first + int(batch.token_lengths[row]))


def test_ar_size(ar_case):
    assert sum(weight.numel() for weight in ar_case.model.parameters()) == ar_case.held["n_parameters"]


@torch.no_grad()
def test_ar_teacher_forced(ar_case):
    model, recorded, batch = ar_case.model, ar_case.recorded("tf/"), batch_of(ar_case)
    text = model.text_encoder(model.text_embedding(batch.text))
    x, first_layer, hidden = lm_outputs(ar_case, batch)
    ours = {
        "lm_input": x,
        "lm_block0": first_layer,
        "lm_out": hidden,
        "logits": model.token_head(hidden),
        "text_encoder": text,
        "text_affine": model.text_projection(text),
    }
    for row in range(len(batch.text)):
        length = int(batch.text_lengths[row])
        steps = rows_of_tokens(batch, row).stop
        for name, tensor in ours.items():
            valid = length if name.startswith("text") else steps
            assert_near(tensor[row, :valid], recorded[name][row, :valid])
        targets = recorded["lm_target"][row, length + 2 : steps].tolist()
        assert targets == [*batch.tokens[row, : int(batch.token_lengths[row])].tolist(), model.config.end]
    durations = [model.duration_head(hidden[row, rows_of_tokens(batch, row)]) for row in range(len(batch.text))]
    assert_near(torch.cat(durations), recorded["duration_logits_flat"])


def test_ar_losses_and_gradients(ar_case):
    expected = ar_case.held["teacher_forced"]
    ar_case.model.zero_grad()
    losses = ar_case.model(batch_of(ar_case))
    losses.total.backward()
    assert_loss(losses.token, expected["token_loss"])
    assert_loss(losses.duration, expected["duration_loss"])
    assert_loss(losses.total, expected["total_loss"])
    assert float(losses.accuracy) == pytest.approx(expected["accuracy"])
    assert_gradients(ar_case.model, AR_NAMES, ar_case.recorded("grad/"), ar_case.held["grad_norms"])


VARIANT = re.compile(r"(token|dur)_(ls(?P<ls>[\d.]+)|focal_a(?P<a>[\d.]+)_g(?P<g>[\d.]+)|ce|weighted)(?P<rest>.*)")


@torch.no_grad()
def test_ar_loss_variants(ar_case):
    """All losses of upstream, on the same outputs."""
    batch, recorded = batch_of(ar_case), ar_case.recorded("tf/")
    is_target = recorded["lm_target"] != -1
    logits, targets = recorded["logits"][is_target], recorded["lm_target"][is_target].long()
    valid = torch.arange(batch.tokens.shape[1]) < batch.token_lengths[:, None]
    durations, duration_logits = batch.durations[valid], recorded["duration_logits_flat"]
    weights = torch.tensor(ar_case.held["loss_variants"]["weights"])
    for name, expected in ar_case.held["loss_variants"].items():
        if name == "weights":
            continue
        match = VARIANT.fullmatch(name)
        if match[1] == "token":
            config = ARLossConfig(label_smoothing=float(match["ls"]))
            count = len(batch.text) if "batch" in match["rest"] else len(targets)
            loss = token_loss(logits, targets, config) / count
        else:
            config = ARLossConfig(duration_loss="weighted" if "weighted" in name else "cross_entropy")
            if match["ls"]:
                config = ARLossConfig(duration_loss="label_smoothing", duration_smoothing=float(match["ls"]))
            if match["a"]:
                config = ARLossConfig(focal_alpha=float(match["a"]), focal_gamma=float(match["g"]))
            loss = duration_loss(duration_logits, durations, config, weights)
        assert_loss(loss, expected)


@torch.no_grad()
@pytest.mark.parametrize(("row", "name"), [(0, "a"), (1, "b")])
def test_ar_items_alone(ar_case, row, name):
    model, batch = ar_case.model, batch_of(ar_case, slice(row, row + 1))
    _, _, hidden = lm_outputs(ar_case, batch)
    assert_near(model.token_head(hidden), ar_case.tensors[f"single_{name}/logits"])
    durations = model.duration_head(hidden[0, rows_of_tokens(batch, 0)])
    assert_near(durations, ar_case.tensors[f"single_{name}/duration_logits"])
    losses = model(batch)
    assert_loss(losses.token, ar_case.held["batch_vs_single"][name]["token_loss"])
    assert_loss(losses.duration, ar_case.held["batch_vs_single"][name]["duration_loss"])


@torch.no_grad()
def test_ar_without_a_rate(ar_case):
    batch = batch_of(ar_case, slice(0, 1), rate=None)
    _, _, hidden = lm_outputs(ar_case, batch)
    assert_near(ar_case.model.token_head(hidden), ar_case.tensors["norate_zero_slot/logits"])
    assert_loss(ar_case.model(batch).token, ar_case.held["norate_zero_slot"]["token_loss"])


def prompts_of(case, run):
    text = case.tensors["gen/text"].long()
    tokens, durations = (case.tensors[f"gen/prompt_{name}"].long() for name in ("token", "duration"))
    if run.startswith("noprompt"):
        tokens, durations = tokens[:, :0], durations[:, :0]
    lengths = (torch.tensor([each.shape[1]]) for each in (text, tokens))
    text_lengths, token_lengths = lengths
    return ARBatch(text, text_lengths, tokens, token_lengths, durations, case.held["greedy"][run]["rate"])


def greedy(case, run, **settings):
    limit = int(case.held["greedy"][run]["max_token_text_ratio"] * case.tensors["gen/text"].shape[1])
    return GenerationConfig(GREEDY, GREEDY, max_tokens=limit, **settings)


def test_greedy_generation_as_upstream(ar_case, greedy_run):
    expected, recorded = ar_case.held["greedy"][greedy_run], ar_case.recorded(f"gen/{greedy_run}/")
    prompts, config = prompts_of(ar_case, greedy_run), greedy(ar_case, greedy_run, compatible=True)
    out = generate(ar_case.model, prompts, config)
    assert out.tokens[0].tolist() == recorded["tokens"].tolist()
    assert out.durations[0, : expected["n_durations"]].tolist() == recorded["durations"].tolist()
    assert out.lengths.tolist() == [expected["n_tokens"]]
    assert out.reached_limit.tolist() == [expected["stop"] == "max_len"]
    steps = list(generate_steps(ar_case.model, prompts, config))
    assert_near(torch.cat([step.token_logits for step in steps]), recorded["token_logits"])
    assert_near(torch.cat([step.duration_logits for step in steps[1:]]), recorded["duration_logits"])


def test_greedy_generation_in_a_batch(ar_case):
    """Runs of different prompts side by side give what each gave alone."""
    runs = list(ar_case.held["greedy"])
    alone = [prompts_of(ar_case, run) for run in runs]
    stacked = {}
    for name in ("text", "tokens", "durations"):
        rows = [getattr(each, name)[0] for each in alone]
        stacked[name] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    lengths = {name: torch.cat([getattr(each, name) for each in alone]) for name in ("text_lengths", "token_lengths")}
    prompts = ARBatch(**stacked, **lengths, thresholds=[each.thresholds for each in alone])
    limit = max(greedy(ar_case, run).max_tokens for run in runs)
    out = generate(ar_case.model, prompts, GenerationConfig(GREEDY, GREEDY, max_tokens=limit, compatible=True))
    for row, run in enumerate(runs):
        recorded = ar_case.recorded(f"gen/{run}/")
        count = len(recorded["tokens"])
        assert out.tokens[row, :count].tolist() == recorded["tokens"].tolist()
        known = len(recorded["durations"])
        assert out.durations[row, :known].tolist() == recorded["durations"].tolist()


# ----------------------------------------------------------------------------------------------------- flow matching


def inputs_of(case, rows=slice(None), frames=None):
    codes, x, t, mask = (case.tensors[f"in/{name}"][rows] for name in ("codes", "x", "t", "mask"))
    frames = x.shape[1] if frames is None else frames
    codes = codes[:, : -(-frames // case.model.config.frames_per_code)].long()
    return codes, x[:, :frames], t, mask[:, :frames].bool()


def velocity(model, condition, x, t, valid, hidden=None):
    return model.velocity(x, model.time_gains(t), model.condition_mlp(condition), valid, hidden)


@torch.no_grad()
def test_velocity(flow_case):
    model, recorded = flow_case.model, flow_case.recorded("vel/")
    codes, x, t, valid = inputs_of(flow_case)
    condition = model.embed_codes(codes)
    hidden = []
    ours = {
        "cond_feature": condition,
        "mel_in": model.input_mlp(x),
        "cond_mlp": model.condition_mlp(condition),
        "v": velocity(model, condition, x, t, valid, hidden),
        "block0": hidden[0],
        "repa_hidden": hidden[model.config.alignment_layer],
        "v_nomask": velocity(model, condition, x, t, torch.ones_like(valid)),
        "v_zero_cond": velocity(model, torch.zeros_like(condition), x, t, valid),
    }
    for name, tensor in ours.items():
        assert_near(tensor[valid], recorded[name][valid])
    for row, name in enumerate("ab"):
        frames = recorded[f"single_{name}"].shape[1]
        codes, x, t, _ = inputs_of(flow_case, slice(row, row + 1), frames)
        assert_near(velocity(model, model.embed_codes(codes), x, t, None), recorded[f"single_{name}"])


@torch.no_grad()
def test_time_embedding(flow_case):
    recorded = flow_case.recorded("time/")
    assert_near(time_sinusoids(recorded["t"], flow_case.model.config.dim), recorded["sinusoid"])
    assert_near(flow_case.model.embed_times(recorded["t"]), recorded["mlp"])


def sampling_config(run, **settings):
    return FlowSamplingConfig(run["n_timesteps"], run["cfg"], run["rescale_cfg"], **settings)


def test_sampling(flow_case, sampling_run):
    recorded = flow_case.recorded(f"smp/{sampling_run}/")
    config = sampling_config(flow_case.held["sampling"][sampling_run])
    codes = flow_case.tensors["smp/codes"].long()
    total = codes.shape[1] * flow_case.model.config.frames_per_code
    given = total - recorded["z"].shape[1]
    prompt = flow_case.tensors["smp/prompt"] if given else None
    seen = {}

    def trace(step, x, with_codes, without):
        seen.update({f"step{step}/x": x, f"step{step}/v_cond": with_codes, f"step{step}/v_uncond": without})

    out = sample(flow_case.model, codes, recorded["z"], prompt, config=config, trace=trace)
    assert_near(flow_case.model.step_times(config.steps), recorded["times"], 1e-6)
    for name in recorded.keys() & seen.keys():
        assert_near(seen[name], recorded[name], SAMPLED)
    assert_near(out, recorded["out"], SAMPLED)


def test_sampling_a_batch(flow_case):
    """As upstream, whose guidance mixes items, and as each item alone."""
    recorded = flow_case.recorded("bat/")
    lengths = recorded["x_mask"].sum(1).long()
    given = recorded["prompt"].shape[1]
    per_code = flow_case.model.config.frames_per_code
    codes = flow_case.tensors["bat/codes"] if "bat/codes" in flow_case.tensors else flow_case.tensors["in/codes"]
    codes = codes[:, : (given + recorded["z"].shape[1]) // per_code].long()
    run = flow_case.held["sampling"]["n4"]
    arguments = (flow_case.model, codes, recorded["z"], recorded["prompt"], lengths)
    theirs = sample(*arguments, sampling_config(run, compatible=True))
    ours = sample(*arguments, sampling_config(run))
    for row, name in enumerate("ab"):
        valid = int(lengths[row])
        assert_near(theirs[row, :valid], recorded["out"][row, :valid], SAMPLED)
        assert_near(ours[row, :valid], recorded[f"single_{name}"][0], SAMPLED)


def test_training_step(flow_case, training_run):
    recorded, expected = flow_case.recorded(f"train/{training_run}/"), flow_case.held["training"][training_run]
    model, alignment = flow_case.model, flow_case.alignment
    lengths = recorded["x_mask"].sum(1).long()
    target = recorded["x_target"]
    generator = torch.Generator().manual_seed(expected["torch_seed"])
    draws = model.draw(lengths, target.shape[1], generator, compatible=True)
    assert_near(draws.t, recorded["t"])
    assert torch.equal(draws.noise, recorded["noise"])
    assert draws.prompt_lengths.tolist() == recorded["prompt_len"].long().tolist()

    model.zero_grad()
    out = model(flow_case.tensors["in/codes"].long(), target, lengths, draws)
    aligned = alignment(out.alignment, flow_case.tensors["train/repa_target"], lengths)
    (out.loss + aligned).backward()
    assert_loss(out.loss, expected["flow_l1"])
    assert_loss(aligned, expected["repa"])
    assert_loss(out.loss + aligned, expected["total"])
    valid = recorded["x_mask"].bool()
    assert_near(out.noisy[valid], recorded["xt"][valid])
    assert_near(out.velocity[valid], recorded["v_pred"][valid])
    assert torch.equal(out.counted, recorded["final_mask"].bool())
    assert_gradients(model, FLOW_NAMES, flow_case.recorded(f"train/{training_run}/grad/"), {})


def test_training_targets_and_lengths(flow_case):
    """Lengths count samples of the audio passed, whatever its rate."""
    if "train/audio16k" not in flow_case.tensors:
        pytest.skip(f"{flow_case.name} was not trained on mel frames")
    audio = flow_case.tensors["train/audio16k"]
    mel = log_mel(resample_sinc(audio, 16_000, 24_000)).mT
    assert_near(mel, flow_case.recorded(f"train/{flow_case.training_runs[0]}/")["x_target"])
    frames = [num_mel_frames(samples, 16_000) for samples in flow_case.tensors["train/audio_lens16k"].tolist()]
    assert frames == flow_case.held["training"]["mask_valid_frames"]["true mel frames"]


# ------------------------------------------------------------------------------------------------- vocoder, mel, text


@torch.no_grad()
def test_vocoder(vocos_case):
    model, recorded = vocos_case.model, vocos_case.tensors
    first_block = []
    refine = model.blocks[0].refine
    model.blocks[0].refine = lambda x: first_block.append(refine(x)) or first_block[-1]
    backbone = model.backbone(recorded["in/mel"])
    del model.blocks[0].refine
    assert_near(model.embed(recorded["in/mel"]), recorded["embed"])
    assert_near(first_block[0].mT, recorded["block0"])
    assert_near(backbone, recorded["backbone"])
    assert_near(model.head(backbone), recorded["head_linear"])
    assert_near(model(recorded["in/mel"])[:, None], recorded["audio"], AUDIO)
    clipped = model.inverse(model.head(recorded["clip/backbone_x40"]))
    assert_near(clipped[:, None], recorded["clip/audio"], CLIPPED_AUDIO)
    assert sum(weight.numel() for weight in model.parameters()) == vocos_case.held["n_parameters"]


def test_mel(mel_case):
    recorded = mel_case.tensors
    for name in recorded:
        signal, _, stage = name.rpartition("/")
        if stage == "mel":
            assert_near(log_mel(recorded[f"{signal}/audio24k"][None])[0], recorded[name])
        if stage == "logmel":
            assert_near(log_mel(recorded[f"{signal}/audio24k"][None], normalize=False)[0], recorded[name])
        if stage == "audio16k":
            assert_near(resample_sinc(recorded[name], 16_000, 24_000), recorded[f"{signal}/audio24k"], 1e-6)
    assert_near(torch.from_numpy(slaney_mel_filters(24_000, 1920, 128)), recorded["filterbank"], 1e-6)
    for samples, frames in mel_case.held["frames"].items():
        audio = torch.zeros(1, int(samples))
        if isinstance(frames, int):
            assert log_mel(audio).shape[2] == frames == num_mel_frames(int(samples), 24_000)
        else:
            with pytest.raises(ValueError, match="too short"):
                log_mel(audio)
    for samples, resampled in mel_case.held["resample_len"].items():
        assert resample_sinc(torch.zeros(1, int(samples)), 16_000, 24_000).shape[1] == resampled


def sentences_of(case):
    return [row for entry, rows in case.held.items() if isinstance(rows, list) and entry != "pairs" for row in rows]


def test_text_ids(text_case):
    pytest.importorskip("tiktoken")
    assert {ord(letter): other for letter, other in text_case.held["rewrite_table_measured"].items()} == REWRITTEN
    for row in sentences_of(text_case):
        assert rewrite(row["espeak_ipa"]) == row["ipa_stripped_and_rewritten"]
        assert encode_rewritten(row["ipa_stripped_and_rewritten"], row["language"]) == row["ids"]
        if "ids_without_g2p" in row:
            assert encode_rewritten(row["text"], row["language"]) == row["ids_without_g2p"]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_text_through_espeak(text_case):
    front_end = EspeakFrontend(compatible=True)
    for row in sentences_of(text_case):
        assert front_end.phonemize(row["text"]) == row["espeak_ipa"]
        assert front_end.encode(row["text"], row["language"]) == row["ids"]
    for row in text_case.held["pairs"]:
        assert front_end.encode(f"{row['ref_text']}, {row['target']}") == row["ids"]


# --------------------------------------------------------------------------------------------------------- end to end


def test_end_to_end(end_to_end_case):
    held, recorded = end_to_end_case.held, end_to_end_case.tensors
    flow = end_to_end_case.beside(held["nar"], "flow").model
    decoder = TokenDecoder(flow, end_to_end_case.beside(held["vocoder"], "vocos").model)
    prompt_codes = recorded["in/prompt_codes"][0].repeat_interleave(recorded["in/prompt_lengths"][0]).long()
    prompt = VoicePrompt(recorded["in/prompt_audio16k"], 16_000, prompt_codes)
    target = recorded["in/tokens"].repeat_interleave(recorded["in/lengths"]).long()
    config = FlowSamplingConfig(held["n_timesteps"], held["cfg"], held["rescale_cfg"], compatible=True)

    codes, prompt_mel, frames = decoder.align(target, prompt, compatible=True)
    assert_near(prompt_mel, recorded["prompt_mel"])
    assert frames == held["frames"]["target mel made"] == recorded["z"].shape[1]
    assert_near(flow.embed_codes(codes), recorded["cond_feature"])
    mel = sample(flow, codes, recorded["z"], prompt_mel, config=config)
    assert_near(mel, recorded["mel"], SAMPLED)
    assert_near(decoder.decode_mel(mel)[0], recorded["audio24k"], SAMPLED)

    # Aligned, the target has the frames that its own codes stand for.
    _, _, aligned = decoder.align(target, prompt)
    assert aligned == held["frames"]["4 x target codes"]
