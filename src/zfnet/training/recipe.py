"""What stands for the code behind a training in the key of its weights, so that changing a message
does not cost hours.
"""

# Part of every training's key: raised where a change of the code changes what a training gives.
RECIPE = 1

# The code that RECIPE stands for: `keys.code_key(train, without=("store", "training.recipe"))`.
LOCKED = "268434038b8ef19f"
