"""What conditions carry beside their text, as facts, and whether the network of input 'model' takes it.

This module reads no file and loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from latentgraph.diffusion.control.specs import refusal
from latentgraph.diffusion.families.specs import ModelSpec
from latentgraph.graph import Facts, Known, OutputFacts

from .facts import some


def check_text(known: Known, *names: str) -> None:
    """Reports each conditioning among the inputs `names` that is not for the network of input 'model', or steered by one
    that is not."""
    family = known.fact("model", "family")
    _check_controls(known, names)
    _check_carried(known, names)
    for name in names:
        for fact, unit in (("text_width", "numbers a token"), ("pooled_width", "numbers for all of it")):
            wanted, found = known.fact("model", fact), known.fact(name, fact)
            if wanted is None or found is None or found == wanted:
                continue
            made_for = known.fact(name, "family") or "another"
            if wanted == 0:
                known.problem(name, f"is text, but input 'model' ({family}) takes none; use EmptyConditioning")
            else:
                cure = "encode it with the text encoders of the model's own family"
                if made_for == family:  # FLUX.2's, of which each has another language model
                    cure = "its sizes have text encoders of their own: encode it with those of this one"
                known.problem(
                    name,
                    f"is text encoded for the {made_for} family ({found} {unit}), but input 'model' is of the {family} "
                    f"family, which takes {wanted}; {cure}",
                )
            break


def steered(known: Known, *names: str) -> OutputFacts:
    """Returns the facts of the conditionings of the inputs `names`, steered by the network of input 'control_net' as well.

    Reports a control network that attends to the text of another family.
    """
    spec = known.fact("control_net", "spec")
    if spec is None:
        return {name: known.facts(name) for name in names}
    for name in names:
        found = known.fact(name, "text_width")
        if found is not None and spec.text_width not in (None, found):
            family = known.fact(name, "family") or "another"
            known.problem(
                "control_net",
                f"is {spec.title}, which attends to text of {spec.text_width} numbers a token, but input {name!r} is text "
                f"encoded for the {family} family ({found}); use one that was made for models of that family",
            )
            return {name: known.facts(name) for name in names}
    return {name: {**known.facts(name), "controls": (*(known.fact(name, "controls") or ()), spec)} for name in names}


def _check_controls(known: Known, names: Iterable[str]) -> None:
    """Reports what steers a conditioning of the inputs `names` and can't steer the network of input 'model'; each once."""
    model = known.fact("model", "spec")
    places = {spec: name for name in reversed([*names]) for spec in known.fact(name, "controls") or ()}
    for spec, name in places.items():
        if model is not None and (wrong := refusal(spec, model)) is not None:
            known.problem(name, f"is steered by what {wrong}")


def shown_pictures(known: Known, name: str, pictures: str) -> Facts:
    """Returns the facts of the conditioning of input `name` with what the pictures of input `pictures` show."""
    width = known.fact(pictures, "embedding_width")
    facts = known.facts(name)
    return facts if width is None else {**facts, "shown": (*(known.fact(name, "shown") or ()), width)}


def with_picture(known: Known, name: str) -> Facts:
    """Returns the facts of the conditioning of input `name` with a picture to edit, which input 'vae' encodes."""
    return {**known.facts(name), "picture": some(known.facts("vae"), ("latent_channels", "latent_scale"))}


def with_masked_picture(known: Known, name: str) -> Facts:
    """Returns the facts of the conditioning of input `name` with a picture to inpaint, filled as input 'fill' says."""
    fill = known.value("fill")
    return known.facts(name) if fill is None else {**known.facts(name), "masked_fill": fill}


def with_small_picture(known: Known, name: str) -> Facts:
    """Returns the facts of the conditioning of input `name` with a picture to enlarge, into which input 'noise' is mixed."""
    return {**known.facts(name), "small": (known.value("noise"),)}


def _check_carried(known: Known, names: Iterable[str]) -> None:
    """Reports what a conditioning of the inputs `names` carries and the network of input 'model' does not take."""
    model = known.fact("model", "spec")
    if model is None:
        return
    for name in names:
        messages = (problem(model, known.facts(name)) for problem in _PROBLEMS)
        for message in filter(None, messages):
            known.problem(name, message)


def _of_shown(model: ModelSpec, facts: Facts) -> str | None:
    width = model.network.picture_width
    wrong = [shown for shown in facts.get("shown", ()) if shown != width]
    if not wrong:
        return None
    takes = "takes none" if width is None else f"takes {width}; use the vision tower of the model's own checkpoint"
    return f"tells what a picture shows by {wrong[0]} numbers, but input 'model' ({model.family}) {takes}"


def _of_depth(model: ModelSpec, facts: Facts) -> str | None:
    if not facts.get("depth") or model.sees_depth:
        return None
    return (
        f"carries depths, which input 'model' ({model.family}) takes no channel for; use a Stable Diffusion 2 depth "
        "checkpoint, or a ControlNet for depth"
    )


def _of_masked_picture(model: ModelSpec, facts: Facts) -> str | None:
    fill = facts.get("masked_fill")
    if not model.inpaint or fill in (None, model.masked_fill):
        return None
    return (
        f"carries a picture that is {fill} under its mask, but input 'model' ({model.family}) was trained to see "
        f"{model.masked_fill} there; give InpaintConditioning the fill '{model.masked_fill}'"
    )


def _of_segments(model: ModelSpec, facts: Facts) -> str | None:
    if not facts.get("segments") or model.sees_segments:
        return None
    return (
        f"shows classes, which input 'model' ({model.family}) takes no channels for; use latent diffusion's for "
        "semantic synthesis"
    )


def _of_small_picture(model: ModelSpec, facts: Facts) -> str | None:
    small = facts.get("small")
    if small and not model.enlarges:
        return (
            f"carries a picture to enlarge, which input 'model' ({model.family}) takes no channels for; use Stable "
            "Diffusion's x4 upscaler, or latent diffusion's for super-resolution"
        )
    if small and small[0] and not model.knows_noise:
        return (
            f"carries a picture with noise, which input 'model' ({model.family}) is not told of; give "
            "UpscaleConditioning a noise of 0"
        )
    return None


def _of_edited_picture(model: ModelSpec, facts: Facts) -> str | None:
    picture = facts.get("picture")
    if picture is None:
        return None
    if not model.edits:
        return (
            f"carries a picture to edit, which input 'model' ({model.family}) takes no channels for; "
            "use an InstructPix2Pix checkpoint"
        )
    taken = {"latent_channels": model.latent.channels, "latent_scale": model.latent.scale}
    wrong = next((fact for fact in picture if taken[fact] != picture[fact]), None)
    if wrong is None:
        return None
    return (
        f"carries a picture whose latent has {picture[wrong]} as its {wrong.removeprefix('latent_')}, but input "
        f"'model' takes {taken[wrong]}; encode it with the VAE of the model that samples"
    )


def _of_references(model: ModelSpec, facts: Facts) -> str | None:
    """Pictures to go by that the network does not look at, or not in these latents."""
    given = facts.get("references")
    if not given:
        return None
    if not model.network.references:
        return (
            f"carries a picture to go by, which networks of the {model.family} family do not look at; leave out "
            "ReferenceLatent, or use one that was trained for it, such as FLUX Kontext"
        )
    wrong = [channels for channels in given if channels not in (None, model.latent.channels)]
    if not wrong:
        return None
    return (
        f"carries a picture to go by as a latent with {wrong[0]} channels, but input 'model' is of the "
        f"{model.family} family, which takes {model.latent.channels}; encode it with the VAE of that family"
    )


_PROBLEMS: tuple[Callable[[ModelSpec, Facts], str | None], ...] = (
    _of_shown,
    _of_depth,
    _of_masked_picture,
    _of_segments,
    _of_small_picture,
    _of_edited_picture,
    _of_references,
)
"""What may be wrong with what a conditioning carries, by its facts: a message, or None."""
