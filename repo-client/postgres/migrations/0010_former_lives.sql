-- Documents on which NFS clients of the node may have locks: 'do' is note or forget. What the node's former lives noted is forgotten
-- with it: who had something there has taken it again by now, through the node that noted it anew.
CREATE OR REPLACE FUNCTION op_locked(i bigint, o jsonb, p_epoch bigint) RETURNS answer[] LANGUAGE plpgsql AS $$
BEGIN
    IF o->>'do' = 'note' THEN
        INSERT INTO nfs_locked(epoch, document)
          SELECT p_epoch, x::bigint FROM jsonb_array_elements_text(o->'documents') AS x ON CONFLICT DO NOTHING;
    ELSE
        DELETE FROM nfs_locked AS l
          WHERE l.epoch IN (SELECT p_epoch UNION ALL SELECT p.epoch FROM past_member p JOIN node_session n ON n.member = p.member
                            WHERE n.epoch = p_epoch)
            AND l.document IN (SELECT x::bigint FROM jsonb_array_elements_text(o->'documents') AS x);
    END IF;
    RETURN refuse(i, 0, 0);
END $$;
