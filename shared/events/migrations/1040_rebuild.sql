-- What a person may ask of a consumer, once more: a rebuild of its projection. Written when it begins (rebuild, compare)
-- and in the transaction that puts the rebuilt tables in place (swap).
ALTER TABLE fold_audit DROP CONSTRAINT fold_audit_action_check;
ALTER TABLE fold_audit ADD CONSTRAINT fold_audit_action_check
    CHECK (action IN ('retry', 'discard', 'pause', 'resume', 'rebuild', 'compare', 'swap'));
