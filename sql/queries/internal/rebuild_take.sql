-- Go on with a rebuild; whoever was at it is told when it next writes. $1 the new token.
UPDATE coord_rebuild.progress SET token = $1
