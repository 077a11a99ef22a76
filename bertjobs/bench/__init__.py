"""How fast a recipe is here."""
