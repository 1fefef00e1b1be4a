-- The files of a piece were removed; $1 which.
DELETE FROM coord.archive_file WHERE piece = $1
