"""Operations on maps that networks and tasks share."""
