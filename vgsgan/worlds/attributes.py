"""The attributes of an object, and the fifteen words that name them.

Sizes, colours, materials and shapes of CLEVR (Johnson et al., CVPR 2017,
section 3); the words are those of "Learning Words by Drawing Images".
"""

ATTRIBUTES = {
  "size": ("small", "large"),
  "color": (
    "gray",
    "red",
    "blue",
    "green",
    "brown",
    "purple",
    "cyan",
    "yellow",
  ),
  "material": ("rubber", "metal"),
  "shape": ("cube", "sphere", "cylinder"),
}

# All values and the kind of each, in one fixed order.
WORDS = tuple(word for words in ATTRIBUTES.values() for word in words)
KIND = {word: kind for kind, words in ATTRIBUTES.items() for word in words}
