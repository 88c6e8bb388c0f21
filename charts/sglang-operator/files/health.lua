-- Health of an SGLangInference for Argo CD, from conditions that follow kstatus.
-- Ready does not wait for weights, so a wave with a pool never waits for its trainer.
local function verdict(status, message)
  return { status = status, message = message }
end

local seen = obj.status and obj.status.observedGeneration
if seen ~= obj.metadata.generation then
  return verdict("Progressing", "waiting for the operator to look at this generation")
end

local found = {}
for _, condition in ipairs(obj.status.conditions or {}) do
  found[condition.type] = condition
end

local function holds(name)
  return found[name] ~= nil and found[name].status == "True"
end

local function words(name)
  return found[name].reason .. ": " .. found[name].message
end

if holds("Stalled") then
  return verdict("Degraded", words("Stalled"))
end
if holds("Reconciling") then
  return verdict("Progressing", words("Reconciling"))
end
if holds("Suspended") then
  return verdict("Suspended", words("Suspended"))
end
if holds("Ready") then
  return verdict("Healthy", words("Ready"))
end
if found.Ready ~= nil then
  return verdict("Progressing", words("Ready"))
end
return verdict("Progressing", "waiting for the operator to report")
