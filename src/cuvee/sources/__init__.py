"""Sources: where examples come from. One file a component; the file's name is its name in a recipe."""
