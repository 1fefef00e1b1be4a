-- Dead letters by stream and error code, most first.
SELECT d.stream, d.code, count(*) AS letters, max(d.dead_at) AS last_at
FROM coord.dead_letter AS d
GROUP BY d.stream, d.code
ORDER BY letters DESC, d.stream, d.code
