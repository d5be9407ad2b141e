"""What the model is asked.

The paper gives the words for questions (`SENTENCE`). It does not give those for captions: the ones
here are ours, one plain sentence per style, the same for every video of a set.
"""

from typing import Final

SENTENCE: Final = "{question}\nAnswer only the question, in one sentence."
"""The paper's prompt for NExT-QA, ActivityNet-QA, PLM-SGQA and VidCapBench."""

CHOICE: Final = "{question}\n{options}\nAnswer with the letter of the right option only."

EVENT: Final = "Describe in one sentence what happens in this part of the video."
SUBJECT: Final = "Describe in one sentence what the main subject does in this part of the video."
SUBJECT_OVER_TIME: Final = "Describe, in the order of time, what the main subject does."

CAPTIONS: Final = {
    "short": "Describe the video in one sentence.",
    "detailed": "Describe the video in detail: what is seen, where it is, and what happens.",
    "background": "Describe the background of the video: place, objects, weather and time of day.",
    "main_object": "Describe the main subject of the video: how it looks, what it does and how it"
    " moves.",
    "camera": "Describe how the camera films: kind of shot, angle, movement and transitions.",
    "general": "Describe the video in detail: what is seen, where it is, and what happens.",
    "summary": "Sum up the video in one or two sentences.",
    "spatial": "Describe what is seen in the video: people, objects, their looks and places.",
    "temporal": "Describe, in the order of time, what happens in the video.",
    "miscellaneous": "Describe camera, light, style and anything else that is notable about the"
    " video.",
}
"""By style, as VDC names its own and CaReBench's are named here."""
