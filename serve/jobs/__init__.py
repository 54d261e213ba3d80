"""Jobs for new covers: their table, and what runs them."""
