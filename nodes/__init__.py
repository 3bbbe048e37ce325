"""The nodes of latentgraph: thin typed adapters from the graph to the numerics.

How to write a node
-------------------
A node is a class. Its fields are its inputs, what `run` returns are its outputs, its docstring is its documentation::

    class InvertMask(Node, version=1, comfy=ComfyName("InvertMask")):
        \"""Swap what a mask keeps and what it changes.\"""

        mask: Mask = Field(description="The mask.")

        def run(self, ctx: Context) -> Mask:
            from latentgraph.diffusion.pictures.masks import invert_mask

            return invert_mask(self.mask)

- The name says what the node does or gives, in the field's plain words; the same word is the `type` in a document.
- Every input has a description, and a literal its range. A value class (`Mask`) is linked; a file is
  `Annotated[Path, FileInput(kind)]`. Several outputs are the fields of a NamedTuple.
- `run` is a call or two into `latentgraph.diffusion`. Numerics live there, and are tested there.
- A module here loads no torch, so that documents are checked in a moment: import numerics inside `run`. What is light
  (types, names, sizes, headers) may be imported at the top.
- `version` rises when equal inputs give a new result; old cached results are then not used.
- `lane`: "device" if a network runs (its results then depend on the numeric environment), "io" for files, else "cpu".
- A node changes no input, reads no clock, environment or global random state, and keeps nothing between runs. Whatever
  it sees of the world comes from `ctx`; whatever is random comes from a seed. It calls `ctx.progress` at every step, tile
  or picture, which is also where a cancelled run stops. A node that saves or sends something says `effect=True`.
- `infer` says what is known of the outputs before a run, and reports what can't go together: see `facts`. A mistake that a
  header or a size shows must never cost someone a run.
- `comfy` states ComfyUI's name of the node and of inputs that are called otherwise there.

Then list it in `default_registry`, and test it as a value: `InvertMask(mask=mask).run(Context())`.
"""

from latentgraph.graph import Registry

from .adapters import LoadLora, LoadLoraModelOnly
from .custom_sampling import (
    AddNoise,
    BasicGuider,
    CFGGuider,
    DisableNoise,
    DualCFGGuider,
    PerpNegGuider,
    RandomNoise,
    SamplerCustom,
    SamplerCustomAdvanced,
)
from .images import (
    CompositeMasked,
    GridImage,
    LoadImage,
    PadForOutpaint,
    SaveImage,
    ScaleImage,
    ScaleImageBy,
    ScaleImageToMegapixels,
)
from .latents import (
    CompositeLatent,
    EmptyLatent,
    InpaintConditioning,
    LatentFromBatch,
    LatentUpscale,
    LatentUpscaleBy,
    PasteLatent,
    RepeatLatent,
    SetLatentMask,
    VAEDecode,
    VAEDecodeTiled,
    VAEEncode,
    VAEEncodeTiled,
)
from .loading import LoadCheckpoint, LoadVAE
from .masks import (
    CompositeMask,
    CropMask,
    FeatherMask,
    GrowMask,
    ImageFromMask,
    InvertMask,
    LoadMask,
    MaskFromImage,
    ScaleMask,
    SolidMask,
    ThresholdMask,
)
from .merging import (
    AddClips,
    AddModels,
    MergeClips,
    MergeModelBlocks,
    MergeModels,
    SaveCheckpoint,
    SubtractClips,
    SubtractModels,
)
from .model_options import (
    DifferentialDiffusion,
    FreeU,
    FreeUAdaptive,
    ModelSamplingAuraFlow,
    ModelSamplingContinuousEDM,
    ModelSamplingContinuousV,
    ModelSamplingDiscrete,
    ModelSamplingFlux,
    ModelSamplingSD3,
    RescaleCFG,
    SelfAttentionGuidance,
)
from .samplers import (
    KSamplerSelect,
    SamplerDPMAdaptive,
    SamplerDPMPP2MSDE,
    SamplerDPMPP2SAncestral,
    SamplerDPMPP3MSDE,
    SamplerDPMPPSDE,
    SamplerERSDE,
    SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP,
    SamplerLMS,
    SamplerSASolver,
    SamplerSEEDS2,
)
from .sampling import KSampler
from .schedules import (
    AlignYourStepsScheduler,
    BasicScheduler,
    BetaSamplingScheduler,
    ExponentialScheduler,
    ExtendIntermediateSigmas,
    FlipSigmas,
    KarrasScheduler,
    LaplaceScheduler,
    ManualSigmas,
    PolyexponentialScheduler,
    SamplingPercentToSigma,
    SDTurboScheduler,
    SetFirstSigma,
    SplitSigmas,
    SplitSigmasDenoise,
    VPScheduler,
)
from .text import (
    ClipSkip,
    ConditioningArea,
    ConditioningAreaFraction,
    ConditioningAverage,
    ConditioningCombine,
    ConditioningConcat,
    ConditioningMask,
    ConditioningRange,
    ConditioningSize,
    ConditioningStrength,
    ConditioningZeroOut,
    TextEncode,
    TextEncodeSDXL,
)

__all__ = ["default_registry"]


def default_registry() -> Registry:
    """Returns the nodes that come with latentgraph, in the order of a menu."""
    return Registry(
        (
            *(LoadCheckpoint, LoadVAE, LoadLora, LoadLoraModelOnly),
            *(MergeModels, MergeModelBlocks, AddModels, SubtractModels),
            *(MergeClips, AddClips, SubtractClips, SaveCheckpoint),
            *(TextEncode, TextEncodeSDXL, ClipSkip),
            *(ConditioningCombine, ConditioningConcat, ConditioningAverage, ConditioningZeroOut, ConditioningStrength),
            *(ConditioningArea, ConditioningAreaFraction, ConditioningMask, ConditioningRange, ConditioningSize),
            *(EmptyLatent, VAEEncode, VAEDecode, VAEEncodeTiled, VAEDecodeTiled),
            *(KSampler, LatentUpscale, LatentUpscaleBy, SetLatentMask, InpaintConditioning),
            *(SamplerCustom, SamplerCustomAdvanced, RandomNoise, DisableNoise, AddNoise),
            *(BasicGuider, CFGGuider, DualCFGGuider, PerpNegGuider),
            *(KSamplerSelect, SamplerEulerAncestral, SamplerEulerAncestralCFGPP, SamplerDPMPP2SAncestral),
            *(SamplerDPMPPSDE, SamplerDPMPP2MSDE, SamplerDPMPP3MSDE, SamplerLMS),
            *(SamplerDPMAdaptive, SamplerERSDE, SamplerSEEDS2, SamplerSASolver),
            *(BasicScheduler, BetaSamplingScheduler, SDTurboScheduler, AlignYourStepsScheduler, KarrasScheduler),
            *(ExponentialScheduler, PolyexponentialScheduler, LaplaceScheduler, VPScheduler, ManualSigmas),
            *(SplitSigmas, SplitSigmasDenoise, FlipSigmas, SetFirstSigma, ExtendIntermediateSigmas),
            *(SamplingPercentToSigma,),
            *(ModelSamplingDiscrete, ModelSamplingContinuousEDM, ModelSamplingContinuousV, ModelSamplingSD3),
            *(ModelSamplingAuraFlow, ModelSamplingFlux, RescaleCFG, FreeU),
            *(FreeUAdaptive, SelfAttentionGuidance, DifferentialDiffusion),
            *(LatentFromBatch, RepeatLatent, CompositeLatent, PasteLatent),
            *(LoadImage, SaveImage, ScaleImage, ScaleImageBy, ScaleImageToMegapixels),
            *(PadForOutpaint, CompositeMasked, GridImage),
            *(LoadMask, SolidMask, MaskFromImage, ImageFromMask, ScaleMask),
            *(InvertMask, GrowMask, FeatherMask, ThresholdMask, CropMask, CompositeMask),
        )
    )
