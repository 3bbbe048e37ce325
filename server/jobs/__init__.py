"""Jobs: the store, which loses none; their states, their events, and who gets into the queue. No HTTP is known here."""
