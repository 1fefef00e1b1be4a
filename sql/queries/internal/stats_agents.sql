-- Agents by state.
SELECT a.state, count(*) AS agents FROM coord.agent AS a GROUP BY a.state ORDER BY a.state
