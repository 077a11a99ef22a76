"""Why a run ended or does not move, and what to type next."""
